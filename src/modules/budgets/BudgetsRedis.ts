/**
 * Budgets of many replicas, in Redis. Each step is one script, and so atomic and one round trip.
 *
 * A reservation that has expired is not just given back: its replica may have died after the request's usage record was
 * committed and before it was settled here. The sweeper asks the usage log what the request cost, and settles that. Where
 * the log does not answer, the money stays reserved. Should the request be settled all the same, because its replica was
 * only slow, what the sweeper counted is put right.
 *
 * What is in Redis has to stay there: `maxmemory-policy noeviction`, and append-only persistence where a restart must not
 * forget. All keys share a hash tag, and so a slot of a cluster.
 */
import { Clock, Effect, Layer, Option } from "effect"
import { Redis } from "effect/persistence"
import { type Balance, type BudgetAccount, Budgets, type Reservation } from "../../sdk/Budgets.ts"
import { fail, type GatewayError } from "../../sdk/GatewayError.ts"
import { UsageLog } from "../../sdk/UsageLog.ts"
import {
  accountsProblem,
  distinctSettlements,
  firstExceeded,
  maxSpentNanoUsd,
  settlementsProblem,
  unavailable
} from "./Ledger.ts"
import * as RemoteLedger from "./RemoteLedger.ts"

/** Where the ledger is in Redis, and how long others wait for it. */
export interface BudgetsRedisOptions extends RemoteLedger.RemoteLedgerOptions {
  /** What all of its keys begin with, between braces. Default: `llm-gateway:budgets`. */
  readonly prefix?: string
}

/**
 * How long an account is kept after its window, or after the last reservation in it has expired, and how long a reservation
 * is remembered after it was swept, ms: two days.
 */
const keepFor = 2 * 86_400_000
/** Reservations that one script settles: Redis does nothing else meanwhile. */
const settleAtOnce = 200

/**
 * An account is a hash of what is spent (s), reserved (r), and when the key goes (e). A reservation is a hash of amounts
 * by account; beside them, under names that no account's key has because they begin with NUL, are its last operation (o),
 * how many there were (n), and what the sweeper has counted for it (c), after which it holds nothing any more.
 *
 * All figures are integers below 2^53, which Lua's numbers hold exactly; %.0f writes them so, as tostring would not. They
 * are answered as text: redis 6.3's parser of integers passes 2^53 on the way, and 9007199254740991 comes out as ...992.
 */
const reserveScript = Redis.script(
  (prefix: string, { accounts, amountNanoUsd, expiresAt, id }: Reservation, operation: string) => [
    `${prefix}:r:${id}`,
    `${prefix}:x`,
    ...accounts.map(({ key }) => `${prefix}:a:${key}`),
    id,
    operation,
    amountNanoUsd,
    Math.ceil(expiresAt),
    ...accounts.flatMap(({ key, limitNanoUsd, resetsAt }) => [
      key,
      limitNanoUsd,
      resetsAt === undefined ? "" : Math.ceil(Math.max(resetsAt, expiresAt) + keepFor)
    ])
  ],
  {
    numberOfKeys: (_prefix, { accounts }) => accounts.length + 2,
    lua: `
local id, operation, amount, expires = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local covered = 1
local balances = {}
local ends = {}
for i = 3, #KEYS do
  local account = redis.call('HMGET', KEYS[i], 's', 'r', 'e')
  local spent, reserved = tonumber(account[1] or '0'), tonumber(account[2] or '0')
  ends[i] = tonumber(account[3] or '0')
  if amount > math.max(0, tonumber(ARGV[3 * i - 3]) - spent - reserved) then covered = 0 end
  balances[#balances + 1] = spent
  balances[#balances + 1] = reserved
end
local function answer()
  for i = 1, #balances do balances[i] = string.format('%.0f', balances[i]) end
  return {covered, unpack(balances)}
end
if covered == 0 then return answer() end
for i = 3, #KEYS do
  redis.call('HINCRBY', KEYS[i], 'r', ARGV[3])
  redis.call('HINCRBY', KEYS[1], ARGV[3 * i - 4], ARGV[3])
  balances[2 * i - 4] = balances[2 * i - 4] + amount
  local goes = ARGV[3 * i - 2]
  if goes ~= '' and tonumber(goes) > ends[i] then
    redis.call('HSET', KEYS[i], 'e', goes)
    redis.call('PEXPIREAT', KEYS[i], goes)
  end
end
redis.call('HSET', KEYS[1], '\\0o', operation)
if redis.call('HINCRBY', KEYS[1], '\\0n', 1) > 1 then redis.call('PERSIST', KEYS[1]) end
local known = redis.call('ZSCORE', KEYS[2], id)
if not known or tonumber(known) < expires then redis.call('ZADD', KEYS[2], ARGV[4], id) end
return answer()
`
  }
).withReturnType<readonly [covered: number, ...figures: ReadonlyArray<string>]>()

interface Cost {
  readonly id: string
  readonly actualNanoUsd: number
}

/**
 * Settles; or sweeps, where `rememberMs` says for how long what was counted is remembered, and then only what has really
 * expired by now.
 */
const settleScript = Redis.script(
  (prefix: string, costs: ReadonlyArray<Cost>, rememberMs: number) => [
    `${prefix}:x`,
    ...costs.map(({ id }) => `${prefix}:r:${id}`),
    `${prefix}:a:`,
    rememberMs,
    ...costs.flatMap(({ actualNanoUsd, id }) => [id, Math.min(maxSpentNanoUsd, actualNanoUsd)])
  ],
  {
    numberOfKeys: (_prefix, costs) => costs.length + 1,
    // An account whose key has gone was of a window that ended long ago.
    lua: `
local most = ${maxSpentNanoUsd}
local remember = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 2, #KEYS do
  local id, actual = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local expires = tonumber(redis.call('ZSCORE', KEYS[1], id) or '0')
  local parts = redis.call('HGETALL', KEYS[i])
  local counted = 0
  for p = 1, #parts, 2 do
    if parts[p] == '\\0c' then counted = tonumber(parts[p + 1]) end
  end
  if remember == 0 or expires <= now then
    for p = 1, #parts, 2 do
      if string.byte(parts[p]) ~= 0 then
        local key = ARGV[1] .. parts[p]
        local account = redis.call('HMGET', key, 's', 'r')
        if account[2] then
          local spent = math.min(most, math.max(0, tonumber(account[1] or '0') + actual - counted))
          local reserved = math.max(0, tonumber(account[2]) - tonumber(parts[p + 1]))
          redis.call('HSET', key, 's', string.format('%.0f', spent), 'r', string.format('%.0f', reserved))
          if remember > 0 then redis.call('HSET', KEYS[i], parts[p], '0') end
        end
      end
    end
    if #parts > 0 then
      if remember > 0 then
        redis.call('HSET', KEYS[i], '\\0c', string.format('%.0f', actual))
        redis.call('PEXPIRE', KEYS[i], ARGV[2])
      else
        redis.call('DEL', KEYS[i])
      end
    end
    redis.call('ZREM', KEYS[1], id)
  end
end
return 0
`
  }
).withReturnType<number>()

/** Takes back what one operation added, if it was the last on its reservation: nobody knows whether it succeeded. */
const undoScript = Redis.script(
  (prefix: string, { accounts, amountNanoUsd, id }: Reservation, operation: string) => [
    `${prefix}:r:${id}`,
    `${prefix}:x`,
    ...accounts.map(({ key }) => `${prefix}:a:${key}`),
    id,
    operation,
    amountNanoUsd,
    ...accounts.map(({ key }) => key)
  ],
  {
    numberOfKeys: (_prefix, { accounts }) => accounts.length + 2,
    lua: `
local held = redis.call('HMGET', KEYS[1], '\\0o', '\\0c')
if held[1] ~= ARGV[2] or held[2] then return 0 end
for i = 3, #KEYS do
  redis.call('HINCRBY', KEYS[1], ARGV[i + 1], '-' .. ARGV[3])
  local reserved = redis.call('HGET', KEYS[i], 'r')
  if reserved then
    redis.call('HSET', KEYS[i], 'r', string.format('%.0f', math.max(0, tonumber(reserved) - tonumber(ARGV[3]))))
  end
end
redis.call('HSET', KEYS[1], '\\0o', '')
if redis.call('HINCRBY', KEYS[1], '\\0n', -1) <= 0 then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
`
  }
).withReturnType<number>()

/** The ids of reservations that have expired by Redis's own clock. */
const expiredScript = Redis.script(
  (prefix: string) => [`${prefix}:x`, settleAtOnce],
  {
    numberOfKeys: 1,
    lua: `
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
`
  }
).withReturnType<ReadonlyArray<string>>()

const balancesScript = Redis.script(
  (prefix: string, accounts: ReadonlyArray<BudgetAccount>) => accounts.map(({ key }) => `${prefix}:a:${key}`),
  {
    numberOfKeys: (_prefix, accounts) => accounts.length,
    lua: `
local balances = {}
for i = 1, #KEYS do
  local account = redis.call('HMGET', KEYS[i], 's', 'r')
  balances[2 * i - 1] = account[1] or '0'
  balances[2 * i] = account[2] or '0'
end
return balances
`
  }
).withReturnType<ReadonlyArray<string>>()

const toBalances = (
  accounts: ReadonlyArray<BudgetAccount>,
  figures: ReadonlyArray<string>
): ReadonlyArray<Balance> =>
  accounts.map((account, index) => ({
    account,
    spentNanoUsd: Number(figures[2 * index] ?? 0),
    reservedNanoUsd: Number(figures[2 * index + 1] ?? 0)
  }))

/** A cost as the ledger takes it, whatever the log says. */
const money = (cost: number | undefined): number =>
  cost === undefined || !(cost > 0) ? 0 : Math.min(maxSpentNanoUsd, Math.ceil(cost))

/**
 * The ledger in Redis. Where there is a `UsageLog`, it must be among the layer's services: without it, what a request cost
 * whose replica died between writing its record and settling it is not counted.
 *
 * The client should refuse commands while it is not connected (`disableOfflineQueue: true`): a command that waits in it
 * is sent when its request has long failed, and only then taken back.
 */
export const layer = (options: BudgetsRedisOptions = {}): Layer.Layer<Budgets, never, Redis.Redis> =>
  Layer.effect(
    Budgets,
    Effect.gen(function*() {
      const redis = yield* Redis.Redis
      const log = Option.getOrUndefined(yield* Effect.serviceOption(UsageLog))
      const clock = yield* Clock.Clock
      const report = RemoteLedger.outages("Redis", clock)
      const down = ({ cause }: Redis.RedisError) => report(cause instanceof Error ? cause.message : String(cause))
      const prefix = `{${options.prefix ?? "llm-gateway:budgets"}}`
      const evalReserve = redis.eval(reserveScript)
      const evalSettle = redis.eval(settleScript)
      const evalUndo = redis.eval(undoScript)
      const evalExpired = redis.eval(expiredScript)
      const evalBalances = redis.eval(balancesScript)

      const sweep: Effect.Effect<number, GatewayError> = Effect.gen(function*() {
        const ids = yield* Effect.catch(evalExpired(prefix), down)
        if (ids.length === 0) return 0
        const costs = log === undefined ? undefined : yield* log.costs(ids)
        const settlements = ids.map((id) => ({ id, actualNanoUsd: money(costs?.get(id)) }))
        yield* Effect.catch(evalSettle(prefix, settlements, keepFor), down)
        return ids.length
      })

      const remote = yield* RemoteLedger.make("Redis", {
        reserve: (reservation, operation) =>
          evalReserve(prefix, reservation, operation).pipe(
            Effect.catch(down),
            Effect.flatMap(([covered, ...figures]) => {
              const balances = toBalances(reservation.accounts, figures)
              if (covered === 1) return Effect.succeed(balances)
              return Effect.fail(
                firstExceeded(balances, reservation.amountNanoUsd) ?? unavailable("the budget store contradicts itself")
              )
            })
          ),
        undo: (reservation, operation) => Effect.catch(evalUndo(prefix, reservation, operation), down),
        sweep
      }, options)

      // Loads the script, so that the first request finds it there: a budget of nothing refuses, and nothing is written.
      yield* evalReserve(prefix, {
        id: "-",
        accounts: [{ key: "-", name: "-", limitNanoUsd: 0 }],
        amountNanoUsd: 1,
        expiresAt: 0
      }, "-").pipe(Effect.timeout(options.timeoutMs ?? 500), Effect.ignore)

      return Budgets.of({
        reserve: remote.reserve,
        settle: (settlements) =>
          Effect.suspend(() => {
            const problem = settlementsProblem(settlements)
            if (problem !== undefined) return Effect.fail(fail(problem))
            const distinct = distinctSettlements(settlements)
            const batches: Array<Effect.Effect<unknown, GatewayError>> = []
            for (let at = 0; at < distinct.length; at += settleAtOnce) {
              batches.push(
                remote.within(Effect.catch(evalSettle(prefix, distinct.slice(at, at + settleAtOnce), 0), down))
              )
            }
            return Effect.forEach(batches, (batch) => batch, { discard: true })
          }),
        balances: (accounts) =>
          Effect.suspend(() => {
            const problem = accountsProblem(accounts)
            if (problem !== undefined) return Effect.fail(fail(problem))
            return Effect.map(
              remote.within(Effect.catch(evalBalances(prefix, accounts), down)),
              (figures) => toBalances(accounts, figures)
            )
          })
      })
    })
  )
