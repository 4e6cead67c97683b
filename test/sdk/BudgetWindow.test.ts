/** Windows of budgets follow the calendar of their zone, through every change of its clock. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { isTimeZone, windowAt, Windows } from "../../src/sdk/BudgetWindow.ts"
import type { BudgetWindow } from "../../src/sdk/Tenant.ts"

const at = (iso: string): number => Date.parse(iso)

/** A window as people write it: from, to, id. */
const written = (window: BudgetWindow, zone: string, iso: string): string => {
  const { end, id, start } = windowAt(window, zone, at(iso))
  const time = (ms: number) => new Date(ms).toISOString().replace(/:00\.000Z$/, "Z")
  return `${time(start)} ${end === undefined ? "never" : time(end)} ${id}`
}

const hour = 3_600_000

describe("a window", () => {
  it.each<readonly [BudgetWindow, string, string, string]>([
    ["hour", "UTC", "2026-11-23T02:31:07Z", "2026-11-23T02:00Z 2026-11-23T03:00Z 2026-11-23T02:00:00Z"],
    ["day", "UTC", "2026-11-23T23:59:59.999Z", "2026-11-23T00:00Z 2026-11-24T00:00Z 2026-11-23"],
    ["day", "UTC", "2026-11-24T00:00:00Z", "2026-11-24T00:00Z 2026-11-25T00:00Z 2026-11-24"],
    ["week", "UTC", "2026-11-22T12:00:00Z", "2026-11-16T00:00Z 2026-11-23T00:00Z 2026-W47"],
    ["week", "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00Z 2026-11-30T00:00Z 2026-W48"],
    ["week", "UTC", "2027-01-01T00:00:00Z", "2026-12-28T00:00Z 2027-01-04T00:00Z 2026-W53"],
    ["month", "UTC", "2026-12-31T23:00:00Z", "2026-12-01T00:00Z 2027-01-01T00:00Z 2026-12"],
    ["month", "UTC", "2028-02-29T23:00:00Z", "2028-02-01T00:00Z 2028-03-01T00:00Z 2028-02"],
    ["total", "Asia/Tokyo", "2026-12-31T23:00:00Z", "1970-01-01T00:00Z never total"],
    // The day that begins in UTC's evening before.
    ["day", "Asia/Tokyo", "2026-11-23T15:00:00Z", "2026-11-23T15:00Z 2026-11-24T15:00Z 2026-11-24"],
    ["month", "America/New_York", "2026-12-01T04:59:59Z", "2026-11-01T04:00Z 2026-12-01T05:00Z 2026-11"],
    // 23 and 25 hours.
    ["day", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00Z 2026-03-29T22:00Z 2026-03-29"],
    ["day", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00Z 2026-10-25T23:00Z 2026-10-25"],
    ["week", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-18T22:00Z 2026-10-25T23:00Z 2026-W43"],
    // Full hours of a clock that is 5:30, 5:45 and 12:45 ahead, and 3:30 behind.
    ["hour", "Asia/Kolkata", "2026-11-23T02:29:59Z", "2026-11-23T01:30Z 2026-11-23T02:30Z 2026-11-23T01:30:00Z"],
    ["hour", "Asia/Kathmandu", "2026-11-23T02:15:00Z", "2026-11-23T02:15Z 2026-11-23T03:15Z 2026-11-23T02:15:00Z"],
    ["hour", "Pacific/Chatham", "2026-06-23T02:14:59Z", "2026-06-23T01:15Z 2026-06-23T02:15Z 2026-06-23T01:15:00Z"],
    ["hour", "America/St_Johns", "2026-11-23T02:31:00Z", "2026-11-23T02:30Z 2026-11-23T03:30Z 2026-11-23T02:30:00Z"],
    // The hour that comes twice is two windows.
    ["hour", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00Z 2026-10-25T01:00Z 2026-10-25T00:00:00Z"],
    ["hour", "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00Z 2026-10-25T02:00Z 2026-10-25T01:00:00Z"],
    // Lord Howe's clock goes back from 2:00 to 1:30, and forward from 2:00 to 2:30.
    ["hour", "Australia/Lord_Howe", "2026-04-04T15:10:00Z", "2026-04-04T15:00Z 2026-04-04T15:30Z 2026-04-04T15:00:00Z"],
    ["hour", "Australia/Lord_Howe", "2026-10-03T15:40:00Z", "2026-10-03T15:30Z 2026-10-03T16:00Z 2026-10-03T15:30:00Z"],
    // Midnight does not come: Beirut's clock goes from 0:00 to 1:00.
    ["day", "Asia/Beirut", "2026-03-29T12:00:00Z", "2026-03-28T22:00Z 2026-03-29T21:00Z 2026-03-29"],
    // Midnight comes twice: Havana's clock goes from 1:00 back to 0:00.
    ["day", "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T04:00Z 2026-11-02T05:00Z 2026-11-01"],
    ["day", "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00Z 2026-11-02T05:00Z 2026-11-01"],
    // Samoa left out the 30th of December 2011.
    ["day", "Pacific/Apia", "2011-12-30T09:59:00Z", "2011-12-29T10:00Z 2011-12-30T10:00Z 2011-12-29"],
    ["day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00Z 2011-12-31T10:00Z 2011-12-31"],
    ["week", "Pacific/Apia", "2011-12-30T12:00:00Z", "2011-12-26T10:00Z 2012-01-01T10:00Z 2011-W52"]
  ])("of a %s in %s at %s", (window, zone, iso, expected) => {
    assert.strictEqual(written(window, zone, iso), expected)
  })

  it("is not known of a zone that does not exist", () => {
    assert.isTrue(isTimeZone("Europe/Berlin"))
    assert.isFalse(isTimeZone("Europe/Atlantis"))
    assert.throws(() => windowAt("day", "Europe/Atlantis", 0), RangeError)
    assert.throws(() => new Windows("../etc/passwd"), RangeError)
  })
})

const Zone = Schema.Literals(["UTC", ...Intl.supportedValuesOf("timeZone")])
const Kind = Schema.Literals(["hour", "day", "week", "month"])
const Time = Schema.Int.check(Schema.isBetween({ minimum: at("1975-01-01"), maximum: at("2099-01-01") }))
const longest = { hour, day: 49 * hour, week: 8 * 24 * hour, month: 32 * 24 * hour }

describe("the windows of any zone", () => {
  it.prop("contain the time that they are asked for, and follow each other without a gap", [Kind, Zone, Time], (
    [kind, zone, time]
  ) => {
    const { end = Infinity, id, start } = windowAt(kind, zone, time)
    assert.isTrue(start <= time && time < end, "contains")
    assert.isAtMost(end - start, longest[kind])
    assert.deepStrictEqual(windowAt(kind, zone, start), { start, end, id }, "first ms")
    assert.deepStrictEqual(windowAt(kind, zone, end - 1), { start, end, id }, "last ms")
    const next = windowAt(kind, zone, end)
    assert.strictEqual(next.start, end, "next begins where this ends")
    assert.notStrictEqual(next.id, id)
    const previous = windowAt(kind, zone, start - 1)
    assert.strictEqual(previous.end, start, "previous ends where this begins")
    assert.notStrictEqual(previous.id, id)
  }, { arbitrary: { runs: 1500 } })

  it.each(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Chatham"])(
    "tile the weeks in which the clock of %s is changed, hour by hour",
    (zone) => {
      for (const [from, to] of [["2026-03-01", "2026-05-01"], ["2026-09-20", "2026-11-05"]] as const) {
        let time = at(from)
        while (time < at(to)) {
          const { end = Infinity, start } = windowAt("hour", zone, time)
          assert.strictEqual(windowAt("hour", zone, end).start, end)
          assert.isTrue(start <= time && end - start <= hour)
          time = end
        }
      }
    }
  )
})

describe("the current windows", () => {
  it("are kept until they end, and found anew when the clock jumps", () => {
    const windows = new Windows("Asia/Kathmandu")
    const noon = at("2026-11-23T12:00:00Z")
    const first = windows.at("hour", noon)
    assert.strictEqual(windows.at("hour", first.start), first)
    assert.strictEqual(windows.at("hour", (first.end ?? 0) - 1), first)
    for (const jump of [hour, -hour, 24 * hour, -400 * 24 * hour, 0]) {
      for (const kind of ["hour", "day", "week", "month", "total"] as const) {
        assert.deepStrictEqual(windows.at(kind, noon + jump), windowAt(kind, "Asia/Kathmandu", noon + jump))
      }
    }
  })
})
