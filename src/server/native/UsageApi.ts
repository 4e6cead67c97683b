/** What usage records add up to, as JSON or CSV. */
import { Clock, Effect, Result } from "effect"
import { HttpServerResponse } from "effect/http"
import { rowsOf, usageLog, type UsageSelection } from "../../gateway/UsageReports.ts"
import type { UsageReportRow } from "../../sdk/GatewayApi.ts"
import { fail } from "../../sdk/GatewayError.ts"
import { usd } from "../../sdk/Pricing.ts"
import type { UsageGroup, UsageRow } from "../../sdk/UsageLog.ts"
import { type Door, visit } from "../Door.ts"
import { type Cell, csvLine } from "./Csv.ts"
import { usageParameters } from "./UsageParameters.ts"

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
  images: row.images,
  characters: row.characters,
  input_audio_ms: row.inputAudioMs,
  output_audio_ms: row.outputAudioMs,
  input_video_ms: row.inputVideoMs,
  output_video_ms: row.outputVideoMs,
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

const asJson = Effect.fnUntraced(function*(asked: UsageSelection, rows: ReadonlyArray<UsageRow>, truncated: boolean) {
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
  "images",
  "characters",
  "input_audio_ms",
  "output_audio_ms",
  "input_video_ms",
  "output_video_ms",
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

/** Adds up the usage that the caller may see. */
export const read = (door: Door) =>
  visit(
    door,
    Effect.fnUntraced(function*({ request, requestId }) {
      const log = yield* usageLog
      const now = yield* Clock.currentTimeMillis
      const asked = yield* Effect.fromResult(Result.mapError(usageParameters(request.url, now), fail))
      const { rows, truncated } = yield* rowsOf(log, asked)
      const headers = { "x-request-id": requestId, vary: "accept" }
      return wantsCsv(request.headers["accept"])
        ? HttpServerResponse.text(yield* asCsv(asked.groupBy, rows), {
          contentType: "text/csv; charset=utf-8; header=present",
          headers: { ...headers, "x-gateway-truncated": String(truncated), "x-content-type-options": "nosniff" }
        })
        : HttpServerResponse.text(yield* asJson(asked, rows, truncated), { contentType: "application/json", headers })
    })
  )
