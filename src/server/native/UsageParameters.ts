/** What a request for usage asks for, read from its address. */
import { Result, Schema } from "effect"
import type { UsageSelection } from "../../gateway/UsageReports.ts"
import { invalid, type ValidationError } from "../../sdk/GatewayError.ts"
import { Operation } from "../../sdk/Operation.ts"
import { UsageGroup } from "../../sdk/UsageLog.ts"

const names = ["from", "to", "group_by", "tenant", "user", "key", "tag", "model", "operation", "limit"] as const
type Name = (typeof names)[number]
const isName = (name: string): name is Name => names.some((known) => known === name)

type Read<A> = Result.Result<A, ValidationError>
const refuse = (name: string, problem: string) => Result.fail(invalid(name, problem))

/** A caller's own text, as it may be quoted. */
const quoted = (text: string): string => text.slice(0, 100)

const given = (search: string): Read<Partial<Record<Name, string>>> => {
  const asked: Partial<Record<Name, string>> = {}
  for (const [name, value] of new URLSearchParams(search)) {
    if (!isName(name)) return refuse(quoted(name), `there is no such parameter; there are ${names.join(", ")}`)
    const before = asked[name]
    if (before !== undefined && name !== "group_by") return refuse(name, "is given more than once")
    // Whoever fills in a variable that is empty must not get the sum of everything instead.
    if (value === "" && name !== "group_by") return refuse(name, "is empty")
    asked[name] = before === undefined ? value : `${before},${value}`
  }
  return Result.succeed(asked)
}

// ---------------------------------------------------------------------------------------------------------------------
// Times
// ---------------------------------------------------------------------------------------------------------------------

const unixMs = /^\d{1,15}$/
const calendar = /^(\d{4})-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(.*))?)?$/i
// A plus sign in an address means a space, and few remember to write %2B.
const zone = /^(?:|Z|([+ -])([01]\d|2[0-3]):?([0-5]\d))$/i
/** The end of the year 9999, the last that has four digits. */
const lastTime = 253_402_300_799_999

/** A time in Unix ms; one that names no offset is in UTC. */
const timeOf = (text: string): number | undefined => {
  if (unixMs.test(text)) return Number(text) <= lastTime ? Number(text) : undefined
  const match = calendar.exec(text)
  const offset = zone.exec(match?.[8] ?? "")
  if (match === null || offset === null) return undefined
  const [, year = "", month = "", day = "01", hour = "00", minute = "00", second = "00", fraction = ""] = match
  const instant = `${year}-${month}-${day}T${hour}:${minute}:${second}.${fraction.slice(0, 3).padEnd(3, "0")}Z`
  const time = Date.parse(instant)
  // A day that the month does not have may be read as one of the next month.
  if (Number.isNaN(time) || new Date(time).toISOString() !== instant) return undefined
  const [, sign, hours = "0", minutes = "0"] = offset
  const ahead = (Number(hours) * 60 + Number(minutes)) * 60_000
  return Math.min(lastTime, Math.max(0, time + (sign === "-" ? ahead : -ahead)))
}

const defaultRange = 30 * 86_400_000

const timesOf = (
  from: string | undefined,
  to: string | undefined,
  now: number
): Read<{ readonly from: number; readonly to: number }> => {
  const wrong = "is no time; expected ISO 8601, such as 2026-05-01 or 2026-05-01T13:30:00Z, or Unix time in ms"
  const end = to === undefined ? now : timeOf(to)
  if (end === undefined) return refuse("to", wrong)
  const start = from === undefined ? Math.max(0, end - defaultRange) : timeOf(from)
  if (start === undefined) return refuse("from", wrong)
  return start > end ? refuse("from", "is later than the end of the range") : Result.succeed({ from: start, to: end })
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups and the limit
// ---------------------------------------------------------------------------------------------------------------------

const isGroup = Schema.is(UsageGroup)

const groupsOf = (text: string): Read<ReadonlyArray<UsageGroup>> => {
  const groups = new Set<UsageGroup>()
  for (const name of text.split(",").map((name) => name.trim())) {
    if (name === "") continue
    if (!isGroup(name)) {
      return refuse("group_by", `cannot be "${quoted(name)}"; there are ${UsageGroup.literals.join(", ")}`)
    }
    groups.add(name)
  }
  return Result.succeed(Array.from(groups))
}

const defaultLimit = 1000
const maxLimit = 10_000

const limitOf = (text: string | undefined): Read<number> => {
  if (text === undefined) return Result.succeed(defaultLimit)
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0
  return limit >= 1 && limit <= maxLimit
    ? Result.succeed(limit)
    : refuse("limit", `expected a whole number from 1 to ${maxLimit}`)
}

const isOperation = Schema.is(Operation)

const operationOf = (text: string): Read<Operation> =>
  isOperation(text)
    ? Result.succeed(text)
    : refuse("operation", `cannot be "${quoted(text)}"; there are ${Operation.literals.join(", ")}`)

/** Reads the parameters of an address. `now` is Unix ms. What is wrong with one names it. */
export const usageParameters = (url: string, now: number): Read<UsageSelection> =>
  Result.gen(function*() {
    const at = url.indexOf("?")
    const { from, group_by: groupBy = "", limit, operation, to, ...filters } = yield* given(at < 0 ? "" : url.slice(at))
    return {
      ...yield* timesOf(from, to, now),
      groupBy: yield* groupsOf(groupBy),
      limit: yield* limitOf(limit),
      ...(operation === undefined ? {} : { operation: yield* operationOf(operation) }),
      ...filters
    }
  })
