/** The calls of the gateway for callers in the same process, with nothing in between. */
import { Clock, Effect, Layer, Option, Stream } from "effect"
import type { Balance } from "../sdk/Budgets.ts"
import type { BudgetInfo, UsageReport, UsageReportRow } from "../sdk/GatewayApi.ts"
import { GatewayInProcess, type UsageQuestion } from "../sdk/GatewayCalls.ts"
import type { GatewayError } from "../sdk/GatewayError.ts"
import { maxJobWait } from "../sdk/Job.ts"
import { usd } from "../sdk/Pricing.ts"
import { Tenants } from "../sdk/Tenant.ts"
import { UsageLog, type UsageRow } from "../sdk/UsageLog.ts"
import { Gateway } from "./Gateway.ts"
import { Jobs, jobs } from "./Jobs.ts"
import { rowsOf, usageLog } from "./UsageReports.ts"

/** A budget as its callers see it. */
export const budgetInfo = ({ account, reservedNanoUsd, spentNanoUsd }: Balance): BudgetInfo => ({
  name: account.name,
  key: account.key,
  limitUsd: usd(account.limitNanoUsd),
  spentUsd: usd(spentNanoUsd),
  reservedUsd: usd(reservedNanoUsd),
  // A limit that was lowered since may be below what was spent.
  remainingUsd: usd(Math.max(0, account.limitNanoUsd - spentNanoUsd - reservedNanoUsd)),
  ...(account.resetsAt === undefined ? {} : { resetsAt: new Date(account.resetsAt).toISOString() })
})

/** 30 days. */
const defaultRange = 30 * 86_400_000
const defaultLimit = 1_000
/** Year 9999, beyond which a date has no usual form. */
const lastTime = 253_402_300_799_999

const isoOf = (unixMs: number): string => new Date(unixMs).toISOString()
const timeOf = (asked: number | undefined, otherwise: number): number =>
  Math.min(lastTime, Math.max(0, Math.trunc(asked ?? otherwise)))

const groupOf = (group: UsageRow["group"]): Record<string, string | null> =>
  Object.fromEntries(Object.entries(group).map(([name, value]) => [name, value ?? null]))

const reportRow = (row: UsageRow): UsageReportRow => ({
  ...row,
  group: groupOf(row.group),
  costUsd: usd(row.costNanoUsd)
})

const report = Effect.fnUntraced(function*(
  { from, groupBy = [], limit = defaultLimit, to, ...filters }: UsageQuestion
): Effect.fn.Return<UsageReport, GatewayError> {
  const log = yield* usageLog
  const end = timeOf(to, yield* Clock.currentTimeMillis)
  const start = timeOf(from, Math.max(0, end - defaultRange))
  const { rows, truncated } = yield* rowsOf(log, { from: start, to: end, groupBy, limit, ...filters })
  return {
    from: isoOf(start),
    to: isoOf(end),
    groupBy,
    rows: rows.map(reportRow),
    truncated
  }
})

/** The calls of the `Gateway` beneath. Usage needs a sink that keeps its records, as `UsageSql` does; jobs need `Jobs`. */
export const layer: Layer.Layer<GatewayInProcess, never, Gateway> = Layer.effect(
  GatewayInProcess,
  Effect.gen(function*() {
    const {
      budgets,
      chat,
      countTokens,
      embed,
      explain,
      image,
      model,
      models,
      openImage,
      openSpeech,
      openTranscription,
      routes,
      speak,
      streamChat,
      transcribe,
      video
    } = yield* Gateway
    const log = yield* Effect.serviceOption(UsageLog)
    const tenants = yield* Effect.serviceOption(Tenants)
    const known = yield* Effect.serviceOption(Jobs)
    const running = Option.isSome(known) ? Effect.succeed(known.value) : jobs
    return GatewayInProcess.of({
      chat: (request) => chat(request),
      streamChat,
      countTokens: (request) => countTokens(request),
      embed: (request) => embed(request),
      image: (request) => image(request),
      streamImage: (request) => Stream.unwrap(openImage({ ...request, stream: true })),
      speak: (request) => speak(request),
      streamSpeech: (request) => Stream.unwrap(openSpeech(request)),
      video: (request) => video(request),
      transcribe: (request) => transcribe(request),
      streamTranscribe: (request) => Stream.unwrap(openTranscription(request)),
      models,
      model,
      routes,
      explain,
      usage: (question) => {
        const asked = report(question)
        const withLog = Option.isNone(log) ? asked : Effect.provideService(asked, UsageLog, log.value)
        return Option.isNone(tenants) ? withLog : Effect.provideService(withLog, Tenants, tenants.value)
      },
      budgets: Effect.map(budgets, (balances) => balances.map(budgetInfo)),
      createJob: (job, options) => Effect.flatMap(running, ({ create }) => create(job, options)),
      job: (id, { waitMs = 0 } = {}) =>
        Effect.flatMap(running, ({ get, wait }) => waitMs > 0 ? wait(id, Math.min(maxJobWait, waitMs)) : get(id)),
      watchJob: (id) => Stream.unwrap(Effect.map(running, ({ changes }) => changes(id))),
      jobs: (question = {}) => Effect.flatMap(running, ({ list }) => list(question)),
      redeliverWebhook: (id) => Effect.flatMap(running, ({ redeliver }) => redeliver(id)),
      cancelJob: (id) => Effect.flatMap(running, ({ cancel }) => cancel(id))
    })
  })
)
