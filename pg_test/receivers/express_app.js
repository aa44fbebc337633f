// An Express application as the integration guide shows it: express.json() parses the body, and the signature is checked
// over JSON.stringify(req.body). It works only if our bodies survive parsing and printing, byte for byte.
//
//   SECRET=… node express_app.js      prints "listening <port>"; GET /received tells what was verified

const crypto = require("node:crypto");
const express = require("express");

const secret = process.env.SECRET;
const received = [];
const app = express();

app.use(express.json({ limit: "2mb" }));

app.post("/hook", (req, res) => {
  const expected = crypto.createHmac("sha256", secret).update(JSON.stringify(req.body)).digest("hex");
  const signature = req.get("X-Lanonasis-Signature") ?? "";
  const verified =
    signature.length === expected.length && crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expected));
  received.push({
    verified,
    event: req.get("X-Lanonasis-Event"),
    delivery: req.get("X-Lanonasis-Delivery"),
    body: req.body,
  });
  res.sendStatus(verified ? 200 : 401);
});

app.get("/received", (_req, res) => res.json(received));

const server = app.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
