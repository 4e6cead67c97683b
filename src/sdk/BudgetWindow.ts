/**
 * The windows of budgets, by the calendar of a time zone: when the one that holds now began, when the next one begins,
 * and an id that no other window of its kind has. Pure; the zone's rules come from the platform (`Intl`).
 *
 * Days last 23 or 25 hours where the clock is changed, and a day that a zone leaves out (Samoa's 30th of December 2011)
 * has no window. Hours begin when the zone's clock shows a full hour, so a quarter past in UTC where the offset is 5:45;
 * the hour that a clock goes through twice is two windows, and a change by half an hour leaves one of 30 minutes: none
 * is ever longer than an hour.
 */
import { DateTime, Option } from "effect"
import type { BudgetWindow } from "./Tenant.ts"

/** A window: Unix ms, from `start` inclusive to `end` exclusive. */
export interface Window {
  /** 0 for `total`. */
  readonly start: number
  /** Absent for `total`, which has no end. */
  readonly end?: number
  /**
   * Unique among the windows of its kind: `2026-11` for a month, `2026-W48` for a week (ISO 8601), `2026-11-23` for a
   * day, the start in UTC for an hour, `total`. All but the hour's stay the same when the time zone is changed.
   */
  readonly id: string
}

const hourMs = 3_600_000
const dayMs = 24 * hourMs
/**
 * How far from UTC a zone's clock can be, with room: -12 to +14 hours today, up to a day when a zone changes sides of the
 * date line.
 */
const farthest = 26 * hourMs

/** Whether the platform knows the IANA time zone, such as `Europe/Berlin`. */
export const isTimeZone = (name: string): boolean => Option.isSome(DateTime.zoneMakeNamed(name))

const zoneOf = (name: string): DateTime.TimeZone.Named => {
  const zone = DateTime.zoneMakeNamed(name)
  if (Option.isSome(zone)) return zone.value
  throw new RangeError(`${JSON.stringify(name)} is not a time zone`)
}

/** What the zone's clock is ahead of UTC, ms. */
const offsetAt = (zone: DateTime.TimeZone, at: number): number =>
  DateTime.zonedOffset(DateTime.makeZonedUnsafe(at, { timeZone: zone }))

/** The first ms after `from`, up to `to`, at which the clock has another offset than at `from`; their offsets differ. */
const transition = (zone: DateTime.TimeZone, from: number, to: number): number => {
  const before = offsetAt(zone, from)
  let low = from
  let high = to
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (offsetAt(zone, middle) === before) low = middle
    else high = middle
  }
  return high
}

/**
 * When the zone's clock first shows `local` (ms as if it were UTC), or jumps over it. Zones change their clocks once in
 * weeks at most, so that between both ends of the search lies one change or none.
 */
const firstInstant = (zone: DateTime.TimeZone, local: number): number => {
  const from = local - farthest
  const to = local + farthest
  const before = offsetAt(zone, from)
  const after = offsetAt(zone, to)
  if (before === after) return local - before
  const change = transition(zone, from, to)
  if (local - before < change) return local - before
  return Math.max(change, local - after)
}

const digits = (value: number, width: number): string => String(value).padStart(width, "0")

const dayId = (local: number): string => new Date(local).toISOString().slice(0, -"T00:00:00.000Z".length)

/** ISO 8601: a week belongs to the year that its Thursday is in. */
const weekId = (monday: number): string => {
  const year = new Date(monday + 3 * dayMs).getUTCFullYear()
  const fourth = Date.UTC(year, 0, 4)
  const first = fourth - ((new Date(fourth).getUTCDay() + 6) % 7) * dayMs
  return `${digits(year, 4)}-W${digits(1 + Math.round((monday - first) / (7 * dayMs)), 2)}`
}

interface Calendar {
  /** The period's midnight at or before the given local time, ms as if it were UTC. */
  readonly floor: (local: number) => number
  readonly next: (midnight: number) => number
  readonly previous: (midnight: number) => number
  readonly id: (midnight: number) => string
}

const floorDay = (local: number): number => Math.floor(local / dayMs) * dayMs
const monthOf = (local: number, shift: number): number => {
  const date = new Date(local)
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + shift, 1)
}

const calendars: Readonly<Record<"day" | "week" | "month", Calendar>> = {
  day: {
    floor: floorDay,
    next: (midnight) => midnight + dayMs,
    previous: (midnight) => midnight - dayMs,
    id: dayId
  },
  week: {
    // The 1st of January 1970 was a Thursday.
    floor: (local) => floorDay(local) - (((floorDay(local) / dayMs + 3) % 7 + 7) % 7) * dayMs,
    next: (midnight) => midnight + 7 * dayMs,
    previous: (midnight) => midnight - 7 * dayMs,
    id: weekId
  },
  month: {
    floor: (local) => monthOf(local, 0),
    next: (midnight) => monthOf(midnight, 1),
    previous: (midnight) => monthOf(midnight, -1),
    id: (midnight) => dayId(midnight).slice(0, -"-01".length)
  }
}

/** Periods that begin at midnight. The clock may show a date twice or not at all: what counts is when it first comes. */
const calendarWindow = (calendar: Calendar, zone: DateTime.TimeZone, now: number): Window => {
  let midnight = calendar.floor(now + offsetAt(zone, now))
  let start = firstInstant(zone, midnight)
  while (start > now) {
    midnight = calendar.previous(midnight)
    start = firstInstant(zone, midnight)
  }
  let end = firstInstant(zone, calendar.next(midnight))
  while (end <= now) {
    midnight = calendar.next(midnight)
    start = end
    end = firstInstant(zone, calendar.next(midnight))
  }
  return { start, end, id: calendar.id(midnight) }
}

const hourWindow = (zone: DateTime.TimeZone, now: number): Window => {
  const offset = offsetAt(zone, now)
  let start = Math.floor((now + offset) / hourMs) * hourMs - offset
  let end = start + hourMs
  if (offsetAt(zone, start) !== offset) start = transition(zone, start, now)
  if (offsetAt(zone, end) !== offset) end = transition(zone, now, end)
  return { start, end, id: new Date(start).toISOString().replace(".000Z", "Z") }
}

const total: Window = { start: 0, id: "total" }

/**
 * The window that holds at `nowMs` (Unix ms, a date from 1970 on). Throws a `RangeError` for a time zone that
 * `isTimeZone` does not know. Costs some microseconds, and a hundred where the clock is changed nearby: `Windows` keeps
 * the answer.
 */
export const windowAt = (window: BudgetWindow, timeZone: string, nowMs: number): Window => {
  switch (window) {
    case "total":
      return total
    case "hour":
      return hourWindow(zoneOf(timeZone), nowMs)
    default:
      return calendarWindow(calendars[window], zoneOf(timeZone), nowMs)
  }
}

/** The current windows of a time zone, each kept until it ends or the clock jumps out of it. */
export class Windows {
  readonly timeZone: string
  readonly #current: Partial<Record<BudgetWindow, Window>> = {}

  /** Throws a `RangeError` for a time zone that `isTimeZone` does not know. */
  constructor(timeZone: string) {
    zoneOf(timeZone)
    this.timeZone = timeZone
  }

  /** The window that holds at `nowMs`, Unix ms. */
  at(window: BudgetWindow, nowMs: number): Window {
    const current = this.#current[window]
    if (current !== undefined && nowMs >= current.start && (current.end === undefined || nowMs < current.end)) {
      return current
    }
    return this.#current[window] = windowAt(window, this.timeZone, nowMs)
  }
}
