/**
 * What the ledgers of budgets cost: `node test/bench/Budgets.ts`. Three accounts a request, reserve and settle; CPU of this
 * process in µs, and how long a reservation waits in ms.
 */
import { Effect } from "effect"
import { Budgets } from "../../src/sdk/Budgets.ts"
import { account, ledgers } from "../modules/budgets/Ledgers.ts"

const requests = (batch: number, rounds: number, concurrency: number, name: string) =>
  Effect.gen(function*() {
    const budgets = yield* Budgets
    const accounts = [account("tenant", 9e15), account("user", 9e15), account("key", 9e15)]
    const waits: Array<number> = []
    const cpu = process.cpuUsage()
    let reserving = 0
    for (let round = 0; round < rounds; round++) {
      const before = process.cpuUsage()
      const settlements = yield* Effect.forEach(Array.from({ length: batch }), (_, index) => {
        const id = `${name}:${round}:${index}`
        const start = performance.now()
        return Effect.map(budgets.reserve({ id, accounts, amountNanoUsd: 1000, expiresAt: 8e15 }), () => {
          waits.push(performance.now() - start)
          return { id, accounts, actualNanoUsd: 500 }
        })
      }, { concurrency })
      const used = process.cpuUsage(before)
      reserving += used.user + used.system
      yield* budgets.settle(settlements)
    }
    const used = process.cpuUsage(cpu)
    const count = batch * rounds
    waits.sort((one, other) => one - other)
    return {
      requests: count,
      "reserve µs CPU": Number((reserving / count).toFixed(2)),
      "reserve + settle µs CPU": Number(((used.user + used.system) / count).toFixed(2)),
      "reserve p50 ms": Number((waits[Math.floor(count / 2)] ?? 0).toFixed(3)),
      "reserve p99 ms": Number((waits[Math.floor(count * 0.99)] ?? 0).toFixed(3))
    }
  })

const measured = Effect.forEach(
  ledgers.filter(({ available }) => available),
  ({ make, name, remote }) =>
    Effect.flatMap(make({ timeoutMs: 5_000 }), (layer) =>
      Effect.provide(
        Effect.gen(function*() {
          // Batches of 50 are what a busy gateway settles at once.
          const rounds = remote ? 60 : 1_000
          yield* requests(50, rounds / 2, 1, "warm")
          const alone = yield* requests(50, rounds, 1, "alone")
          const together = remote ? yield* requests(50, rounds, 20, "together") : undefined
          return [[name, alone], ...(together === undefined ? [] : [[`${name}, 20 at once`, together]])] as const
        }),
        layer
      ))
)

console.table(Object.fromEntries((await Effect.runPromise(Effect.scoped(measured))).flat()))
