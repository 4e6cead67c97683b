/**
 * What the SQLite driver costs the main thread: `node test/bench/Sql.ts [module]`, where another module that exports
 * `layer({ filename })` can be named for comparison. Prints JSON: CPU of the main thread in µs, and how long the event loop
 * was held up, ms, with the same loop without a database for comparison.
 */
import { Array as Arr, Effect } from "effect"
import { SqlClient } from "effect/sql"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { argv, stdout, threadCpuUsage } from "node:process"
import { pathToFileURL } from "node:url"
import type * as SqliteNode from "../../src/modules/sql/SqliteNode.ts"

const module = path.resolve(argv[2] ?? path.join(import.meta.dirname, "../../src/modules/sql/SqliteNode.ts"))
const { layer }: typeof SqliteNode = await import(pathToFileURL(module).href)

const folder = mkdtempSync(path.join(tmpdir(), "bench-sql-"))

/** CPU that this thread has used, µs. */
const cpu = (): number => {
  const { system, user } = threadCpuUsage()
  return system + user
}

const round = (value: number): number => Math.round(value * 100) / 100

const perUnit = <E, R>(units: number, work: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    yield* work
    const began = cpu()
    const clock = performance.now()
    yield* work
    return { cpuMicros: round((cpu() - began) / units), wallMicros: round((performance.now() - clock) * 1000 / units) }
  })

const wait = (milliseconds: number) => Effect.promise(() => new Promise((resolve) => setTimeout(resolve, milliseconds)))

/** One run of `work`: how long it took, and by how much a timer of 1 ms came late in it, ms. */
const watched = <E, R>(work: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    const histogram = monitorEventLoopDelay({ resolution: 1 })
    histogram.enable()
    yield* wait(5)
    const began = performance.now()
    yield* work
    const took = performance.now() - began
    yield* wait(5)
    histogram.disable()
    return { took, p99: histogram.percentile(99) / 1e6 - 1, max: histogram.max / 1e6 - 1 }
  })

/**
 * How long `work` holds the loop up, ms: of fifteen runs the one that was disturbed least, and the one in the middle. Other
 * processes hold the loop up too; `loopWithoutDatabase` says by how much.
 */
const heldUp = <E, R>(work: Effect.Effect<unknown, E, R>) =>
  Effect.gen(function*() {
    const runs = yield* Effect.all(Array.from({ length: 15 }, () => watched(work)))
    const of = (at: number, figure: "took" | "p99" | "max") =>
      round(runs.map((run) => run[figure]).sort((one, other) => one - other)[at] ?? NaN)
    return { took: of(7, "took"), bestMax: of(0, "max"), typicalMax: of(7, "max"), typicalP99: of(7, "p99") }
  })

const record = (n: number): Record<string, string | number> => ({
  id: `req_${n}`,
  at: 1_700_000_000_000 + n,
  tenant: "acme",
  user_id: `user-${n % 50}`,
  key_id: "key_1",
  operation: "chat",
  model: "openai::gpt-4o",
  provider: "openai",
  input_tokens: 1200,
  output_tokens: 340,
  cost: 123_456_789,
  latency: 812.5,
  outcome: "completed",
  estimated: 0,
  tags: "{\"team\":\"search\"}"
})

const program = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE small (id INTEGER PRIMARY KEY, name TEXT, n INTEGER)`
  yield* sql`CREATE TABLE records (
    id TEXT NOT NULL, at BIGINT NOT NULL, tenant TEXT, user_id TEXT, key_id TEXT, operation TEXT, model TEXT,
    provider TEXT, input_tokens BIGINT, output_tokens BIGINT, cost BIGINT, latency REAL, outcome TEXT, estimated INTEGER,
    tags TEXT
  )`
  let next = 0
  const insert = Effect.suspend(() => sql`INSERT INTO small VALUES (${next++}, 'a name', 12)`)
  const select = Effect.suspend(() => sql`SELECT id, name, n FROM small WHERE id = ${next++ % 1000}`)
  const records = () => sql`INSERT INTO records ${sql.insert(Arr.makeBy(100, () => record(next++)))}`
  const batch = Effect.suspend(records)
  const compile = Effect.sync(() => records().compile())
  const times = <E, R>(count: number, work: Effect.Effect<unknown, E, R>, concurrency: number) =>
    Effect.forEach(Array.from({ length: count }), () => work, { concurrency, discard: true })
  const all =
    sql`WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) SELECT n, 'some text' AS s FROM c`
  return {
    loopWithoutDatabase: yield* heldUp(Effect.sleep(200)),
    smallInsertOneByOne: yield* perUnit(3000, times(3000, insert, 1)),
    smallInsert32AtOnce: yield* perUnit(3200, times(3200, insert, 32)),
    smallSelectOneByOne: yield* perUnit(3000, times(3000, select, 1)),
    smallSelect32AtOnce: yield* perUnit(6400, times(6400, select, 32)),
    transactionOfTwo: yield* perUnit(1000, times(1000, sql.withTransaction(Effect.andThen(insert, insert)), 1)),
    batchOf100RowsBy15: yield* perUnit(200, times(200, batch, 1)),
    ofThatEffectCompiling: yield* perUnit(200, times(200, compile, 1)),
    loopWhile20000RowsInBatchesOf100: yield* heldUp(times(200, batch, 1)),
    loopWhile3000SmallInserts: yield* heldUp(times(3000, insert, 32)),
    loopWhile100000RowsAreRead: yield* heldUp(all)
  }
})

const figures = await Effect.runPromise(
  Effect.provide(program, layer({ filename: path.join(folder, "bench.db") }))
).finally(() => {
  rmSync(folder, { recursive: true, force: true })
})
stdout.write(`${JSON.stringify(figures, null, 2)}\n`)
