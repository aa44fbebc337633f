// What fetch makes of the answers at these URLs: a line of JSON for each. Started by compare.py.

const PATIENCE = 4000;

const words = ({ cause, message }) => cause?.code || cause?.message || message;

async function ask(url) {
  const seen = { status: 0, after: "", error: "" };
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const answer = await fetch(url, { method: "POST", body: "{}", redirect: "manual", signal });
    seen.status = answer.status;
    seen.after = answer.headers.get("retry-after") ?? "";
    await answer.arrayBuffer();
  } catch (error) {
    seen.error = String(error.name === "TimeoutError" ? "timed out" : words(error));
  }
  return seen;
}

const urls = process.argv.slice(2);
for (let from = 0; from < urls.length; from += 8) {
  const results = await Promise.all(urls.slice(from, from + 8).map(ask));
  for (const result of results) console.log(JSON.stringify(result));
}
process.exit(0);
