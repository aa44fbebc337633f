// What a JavaScript receiver makes of bodies. Reads one base64 body a line; answers each with one line: "same", or the
// base64 of JSON.stringify(JSON.parse(body)), or "error: …".

const readline = require("node:readline");

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const body = Buffer.from(line, "base64").toString("utf8");
  let answer;
  try {
    const again = JSON.stringify(JSON.parse(body));
    answer = again === body ? "same" : Buffer.from(again, "utf8").toString("base64");
  } catch (error) {
    answer = `error: ${error.message}`;
  }
  process.stdout.write(`${answer}\n`);
});
