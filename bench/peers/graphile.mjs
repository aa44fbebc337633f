// graphile-worker, tuned for throughput: `graphile.mjs DATABASE_URL SINK`. Prints "ready" when it works.
import { Logger, run } from "graphile-worker";
import { poster } from "./post.mjs";

const [url, sink] = process.argv.slice(2);
const CONCURRENT = 32;
const post = poster(sink, CONCURRENT);

await run({
  connectionString: url,
  noHandleSignals: true,
  logger: new Logger(() => () => {}),
  taskList: { deliver: post },
  preset: {
    worker: {
      concurrentJobs: CONCURRENT,
      maxPoolSize: 10,
      pollInterval: 2000,
      localQueue: { size: 2000 },
      completeJobBatchDelay: 50,
      failJobBatchDelay: 50,
    },
  },
});
console.log("ready");
