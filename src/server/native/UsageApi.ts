/**
 * What usage records add up to, as JSON or CSV.
 *
 * Who sees what: a caller sees its own tenant and those below it. One whose key or token belongs to a user sees that
 * user's records in its own tenant alone: a user of the same name in a tenant below is somebody else. An administrator of
 * a tenant at the root, or of a gateway without configured tenants, sees everything; one of any other tenant sees that
 * tenant and those below it.
 */
import { Clock, Effect, Option, Result } from "effect"
import { HttpServerResponse } from "effect/http"
import { type Caller, CurrentCaller } from "../../sdk/Caller.ts"
import type { UsageReportRow } from "../../sdk/GatewayApi.ts"
import { fail, Forbidden, NotFound } from "../../sdk/GatewayError.ts"
import { usd } from "../../sdk/Pricing.ts"
import { Tenants } from "../../sdk/Tenant.ts"
import { type UsageGroup, UsageLog, type UsageQuery, type UsageRow } from "../../sdk/UsageLog.ts"
import { type Door, visit } from "../Door.ts"
import { type Cell, csvLine } from "./Csv.ts"
import { type UsageParameters, usageParameters } from "./UsageParameters.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Who sees what
// ---------------------------------------------------------------------------------------------------------------------

/** The part of all records that a caller may see; an absent field does not restrict it. */
interface View {
  readonly tenants?: ReadonlyArray<string>
  readonly user?: string
}

type TenantTree = typeof Tenants.Service

const viewOf = (caller: Caller, tree: TenantTree | undefined): View => {
  const isConfigured = tree !== undefined && tree.all().length > 0
  if (caller.admin === true) {
    // The lineage of a tenant at the root is that tenant alone.
    if (!isConfigured || tree.lineage(caller.tenant)?.length === 1) return {}
  } else if (caller.user !== undefined) {
    return { tenants: [caller.tenant], user: caller.user }
  }
  return { tenants: isConfigured ? tree.family(caller.tenant) : [caller.tenant] }
}

const forbidden = (what: string, name: string) =>
  Effect.fail(fail(new Forbidden({ message: `you may not see the usage of ${what} "${name.slice(0, 100)}"` })))

/** The records that a caller asks for, out of those that it may see; fails with `forbidden` where it asks for others. */
const select = (asked: UsageParameters, caller: Caller, tree: TenantTree | undefined) => {
  const view = viewOf(caller, tree)
  if (asked.tenant !== undefined && view.tenants?.includes(asked.tenant) === false) {
    return forbidden("tenant", asked.tenant)
  }
  if (asked.user !== undefined && view.user !== undefined && asked.user !== view.user) {
    return forbidden("user", asked.user)
  }
  const family = asked.tenant === undefined ? view.tenants : tree?.family(asked.tenant) ?? [asked.tenant]
  // Below a tenant that may be seen there is none that may not, except for the caller who is bound to one tenant.
  const tenants = view.user === undefined ? family : view.tenants
  const user = asked.user ?? view.user
  const query: UsageQuery = {
    from: asked.from,
    to: asked.to,
    groupBy: asked.groupBy,
    // One more than asked for tells whether there are more.
    limit: asked.limit + 1,
    ...(tenants === undefined ? {} : { tenants }),
    ...(user === undefined ? {} : { user }),
    ...(asked.key === undefined ? {} : { keyId: asked.key }),
    ...(asked.tag === undefined ? {} : { tag: asked.tag }),
    ...(asked.model === undefined ? {} : { model: asked.model })
  }
  return Effect.succeed(query)
}

// ---------------------------------------------------------------------------------------------------------------------
// The answer
// ---------------------------------------------------------------------------------------------------------------------

type EncodedRow = typeof UsageReportRow.Encoded

/** Written out by hand: through the schema, ten thousand rows take a tenth of a second and more. */
const encodedRow = (row: UsageRow): EncodedRow => ({
  group: row.group,
  requests: row.requests,
  input_tokens: row.inputTokens,
  output_tokens: row.outputTokens,
  cache_read_tokens: row.cacheReadTokens,
  cache_write_tokens: row.cacheWriteTokens,
  input_audio_tokens: row.inputAudioTokens,
  input_image_tokens: row.inputImageTokens,
  output_audio_tokens: row.outputAudioTokens,
  output_image_tokens: row.outputImageTokens,
  reasoning_tokens: row.reasoningTokens,
  cost_usd: usd(row.costNanoUsd),
  cost_nano_usd: row.costNanoUsd,
  unpriced: row.unpriced,
  estimated: row.estimated
})

/** Rows that are written in one go; other requests have their turn in between. */
const slice = 500

const writeRows = Effect.fnUntraced(function*(
  rows: ReadonlyArray<UsageRow>,
  write: (row: EncodedRow) => string
) {
  const texts: Array<string> = []
  for (let from = 0; from < rows.length; from += slice) {
    if (from > 0) yield* Effect.yieldNow
    for (const row of rows.slice(from, from + slice)) texts.push(write(encodedRow(row)))
  }
  return texts
})

const isoOf = (unixMs: number): string => new Date(unixMs).toISOString()

const asJson = Effect.fnUntraced(function*(asked: UsageParameters, rows: ReadonlyArray<UsageRow>, truncated: boolean) {
  const range = `"from":"${isoOf(asked.from)}","to":"${isoOf(asked.to)}"`
  const written = yield* writeRows(rows, JSON.stringify)
  return `{${range},"group_by":${JSON.stringify(asked.groupBy)},"rows":[${written.join(",")}],"truncated":${truncated}}`
})

/** USD to the last digit, never as `1e-9`. */
const exactUsd = (nano: number): string =>
  `${Math.floor(nano / 1e9)}.${String(nano % 1e9).padStart(9, "0").replace(/0{1,8}$/, "")}`

const csvColumns = [
  "requests",
  "input_tokens",
  "output_tokens",
  "cache_read_tokens",
  "cache_write_tokens",
  "input_audio_tokens",
  "input_image_tokens",
  "output_audio_tokens",
  "output_image_tokens",
  "reasoning_tokens",
  "cost_usd",
  "cost_nano_usd",
  "unpriced",
  "estimated"
] as const

const asCsv = Effect.fnUntraced(function*(groupBy: ReadonlyArray<UsageGroup>, rows: ReadonlyArray<UsageRow>) {
  const written = yield* writeRows(rows, (row) => {
    const cells: Array<Cell> = groupBy.map((group) => row.group[group] ?? null)
    for (const column of csvColumns) cells.push(column === "cost_usd" ? exactUsd(row.cost_nano_usd) : row[column])
    return csvLine(cells)
  })
  return csvLine([...groupBy, ...csvColumns]) + written.join("")
})

/** How much an `accept` header wants a type, and how exactly it names it. */
const wish = (accept: string, type: string): { readonly quality: number; readonly exactness: number } => {
  let best = { quality: 0, exactness: 0 }
  for (const range of accept.toLowerCase().split(",")) {
    const [name = "", ...parameters] = range.split(";").map((part) => part.trim())
    const exactness = [`*/*`, `${type.split("/", 1)[0]}/*`, type].indexOf(name) + 1
    if (exactness <= best.exactness) continue
    const q = parameters.find((parameter) => parameter.startsWith("q="))?.slice(2)
    const quality = q === undefined ? 1 : Number(q)
    best = { quality: quality >= 0 && quality <= 1 ? quality : 0, exactness }
  }
  return best
}

const wantsCsv = (accept: string | undefined): boolean => {
  if (accept === undefined) return false
  const table = wish(accept, "text/csv")
  const object = wish(accept, "application/json")
  return table.quality > object.quality ||
    (table.quality > 0 && table.quality === object.quality && table.exactness > object.exactness)
}

const noLog = fail(
  new NotFound({ message: "this gateway keeps no usage records; configure usage.sinks: [{ type: sql }]" })
)

/** Adds up the usage that the caller may see. */
export const read = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const log = Option.getOrUndefined(yield* Effect.serviceOption(UsageLog))
      if (log === undefined) return yield* noLog
      const now = yield* Clock.currentTimeMillis
      const asked = yield* Effect.fromResult(Result.mapError(usageParameters(request.url, now), fail))
      const tree = Option.getOrUndefined(yield* Effect.serviceOption(Tenants))
      const found = yield* log.aggregate(yield* select(asked, yield* CurrentCaller, tree))
      const truncated = found.length > asked.limit
      const rows = truncated ? found.slice(0, asked.limit) : found
      const headers = { "x-request-id": requestId, vary: "accept" }
      return wantsCsv(request.headers["accept"])
        ? HttpServerResponse.text(yield* asCsv(asked.groupBy, rows), {
          contentType: "text/csv; charset=utf-8; header=present",
          headers: { ...headers, "x-gateway-truncated": String(truncated), "x-content-type-options": "nosniff" }
        })
        : HttpServerResponse.text(yield* asJson(asked, rows, truncated), { contentType: "application/json", headers })
    })
  )
