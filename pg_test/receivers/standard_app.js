// Verifies deliveries with the official standardwebhooks library of npm, unmodified.
//
//   SECRET=whsec_… node standard_app.js      prints "listening <port>"; GET /received tells what was verified

const http = require("node:http");
const { Webhook } = require("standardwebhooks");

const webhook = new Webhook(process.env.SECRET);
const received = [];

function verify(payload, headers) {
  try {
    return { verified: true, body: webhook.verify(payload, headers) };
  } catch (error) {
    return { verified: false, error: String(error) };
  }
}

const server = http.createServer((req, res) => {
  if (req.method === "GET") {
    res.setHeader("Content-Type", "application/json");
    res.end(JSON.stringify(received));
    return;
  }
  const chunks = [];
  req.on("data", (chunk) => chunks.push(chunk));
  req.on("end", () => {
    const result = verify(Buffer.concat(chunks).toString("utf8"), req.headers);
    received.push(result);
    res.statusCode = result.verified ? 204 : 401;
    res.end();
  });
});

server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
