// pg-boss, tuned for throughput: `pgboss.mjs DATABASE_URL SINK [setup]`. Prints "ready" when it works, or is set up.
import { PgBoss } from "pg-boss";
import { poster } from "./post.mjs";

const [url, sink, setup] = process.argv.slice(2);
const WORKERS = 4;
const BATCH = 500;
const post = poster(sink, 64);
const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false });
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue("deliver");
if (setup) {
  console.log("ready");
  await boss.stop({ graceful: false });
  process.exit(0);
}
for (let worker = 0; worker < WORKERS; worker++) {
  await boss.work("deliver", { batchSize: BATCH, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true }, (jobs) =>
    Promise.all(jobs.map((job) => post(job.data))),
  );
}
console.log("ready");
