/**
 * A replica: a process of its own that takes from a bucket on Redis as fast as it can. Says `ready`, begins with the first
 * line that it is told, and then says how many of its takes passed.
 *
 *     node TakingProcess.ts <url> <prefix> <limit> <takes>
 */
import { Effect, Exit, Layer } from "effect"
import { once } from "node:events"
import { createInterface } from "node:readline"
import * as RateLimitsRedis from "../../../src/modules/rateLimits/RateLimitsRedis.ts"
import { RateLimits } from "../../../src/sdk/RateLimits.ts"
import { client } from "./OnRedis.ts"

const [url = "", prefix = "", limit = "", takes = ""] = process.argv.slice(2)
const lines = createInterface({ input: process.stdin })

const program = Effect.gen(function*() {
  const limits = yield* RateLimits
  const demand = (key: string, limit: number) =>
    ({ key, name: "requests per user", kind: "requests", limit, windowMs: 30 * 86_400_000, amount: 1 }) as const
  yield* limits.take([demand("warm-up", 1000)])
  process.stdout.write("ready\n")
  yield* Effect.promise(() => once(lines, "line"))
  const exits = yield* Effect.forEach(
    Array.from({ length: Number(takes) }),
    () => Effect.exit(limits.take([demand("shared", Number(limit)), demand("wide", 10_000)])),
    { concurrency: 50 }
  )
  process.stdout.write(`${exits.filter(Exit.isSuccess).length}\n`)
  lines.close()
}).pipe(
  Effect.provide(
    RateLimitsRedis.layer({ prefix, onFailure: "closed", commandTimeout: 30_000 }).pipe(Layer.provide(client(url)))
  )
)

await Effect.runPromise(program)
