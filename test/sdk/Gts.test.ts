import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import * as Gts from "../../src/sdk/Gts.ts"

const name = Schema.String.check(Schema.isPattern(/^[a-z][a-z0-9_]{0,8}$/))
const version = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))
const Segment = Schema.Struct({
  vendor: name,
  package: name,
  namespace: Schema.Union([name, Schema.Literal("_")]),
  type: name,
  major: version,
  minor: Schema.optionalKey(version)
})
const Segments = Schema.NonEmptyArray(Segment).check(Schema.isMaxLength(5))

const write = (segment: typeof Segment.Type) =>
  `${segment.vendor}.${segment.package}.${segment.namespace}.${segment.type}.v${segment.major}${
    segment.minor === undefined ? "" : `.${segment.minor}`
  }`
const writeType = (segments: typeof Segments.Type) => `gts.${segments.map(write).join("~")}~`

const parsed = (id: string) => Result.getOrThrow(Gts.parse(id))
const refusal = (id: string) => {
  const result = Gts.parse(id)
  return Result.isFailure(result) ? result.failure.message : assert.fail(`${id} was taken`)
}

const uuid = "7a1d2f34-5678-49ab-9012-abcdef123456"

describe("Gts.parse", () => {
  it.prop("reads every valid type and writes it back", [Segments], ([segments]) => {
    const id = writeType(segments)
    const gts = parsed(id)
    assert.strictEqual(gts.kind, "type")
    assert.strictEqual(gts.segments.length, segments.length)
    assert.strictEqual(Gts.format(gts), id)
  })

  it.prop("reads every valid instance and writes it back", [Segments], ([segments]) => {
    const wellKnown = `${writeType(segments)}acme.app._.thing.v1.0`
    assert.strictEqual(parsed(wellKnown).kind, "instance")
    assert.strictEqual(Gts.format(parsed(wellKnown)), wellKnown)
    const anonymous = `${writeType(segments)}${uuid}`
    assert.strictEqual(parsed(anonymous).uuid, uuid)
    assert.strictEqual(Gts.format(parsed(anonymous)), anonymous)
  })

  it.prop("refuses any character that the grammar lacks, wherever it stands", [
    Segments,
    Schema.Literals(["-", "A", " ", "*", "/", "é", "\n", "~~", ".."]),
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000 }))
  ], ([segments, bad, at]) => {
    const id = writeType(segments)
    const position = 4 + at % (id.length - 5)
    assert.isTrue(Result.isFailure(Gts.parse(id.slice(0, position) + bad + id.slice(position))))
  })

  it.prop("refuses an identifier that misses any of its pieces", [
    Segments,
    Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000 }))
  ], ([segments, at]) => {
    // Every piece but the optional minor version.
    const chosen = at % segments.length
    const pieces = segments.map((segment, i) => {
      const { minor: _, ...rest } = segment
      return write(rest).split(".").filter((_, part) => i !== chosen || part !== at % 5).join(".")
    })
    assert.isTrue(Result.isFailure(Gts.parse(`gts.${pieces.join("~")}~`)))
  })

  it.each([
    ["x.core.events.type.v1~", "must begin with \"gts.\"", "offset 0"],
    ["gts://gts.x.core.events.type.v1~", "must begin with \"gts.\"", "offset 0"],
    ["gts.x.core.events.type.v1", "must end in \"~\"", "segment 1"],
    [`gts.${uuid}`, "must begin with a to z", "segment 1"],
    ["gts.~", "empty", "segment 1"],
    ["gts.x.core.events.type.v1~~", "empty", "segment 2 at offset 26"],
    ["gts.x.core.events.v1~", "the version is missing", "segment 1 at offset 20"],
    ["gts._.core.events.type.v1~", "stands for the namespace only, not for the vendor", "offset 4"],
    ["gts.x.core.events._.v1~", "stands for the namespace only, not for the type", "offset 18"],
    ["gts.x.core.events.1type.v1~", "the type \"1type\" must begin with", "offset 18"],
    ["gts.x.Core.events.type.v1~", "the package \"Core\"", "offset 6"],
    ["gts.x.core.events.type.v01~", "without leading zeros", "offset 23"],
    ["gts.x.core.events.type.1~", "must be v followed by", "offset 23"],
    ["gts.x.core.events.type.v1.00~", "the minor version \"00\"", "offset 26"],
    ["gts.x.core.events.type.v1.2.3~", "nothing may follow the minor version", "offset 27"],
    ["gts.x.core.events.type.v1~gts.x.core.events.type.v1~", "at the start of the identifier only", "segment 2"],
    [`gts.x.core.events.type.v1~${uuid}~`, "a type must not end in a UUID", "segment 2"],
    [`gts.x.core.events.type.v1~${uuid}~a.b._.c.v1`, "only the last segment", "segment 2"],
    [`gts.x.core.events.type.v1~${uuid.toUpperCase()}`, "the vendor \"7A1D2F34", "segment 2"],
    ["", "must begin with", "offset 0"]
  ])("refuses %s and tells the rule and the place", (id, rule, place) => {
    assert.include(refusal(id), rule)
    assert.include(refusal(id), place)
  })

  it("takes 1,024 characters and no more, and repeats little of them", () => {
    const fill = (length: number) => `gts.x.core._.${"t".repeat(length - "gts.x.core._..v1~".length)}.v1~`
    assert.strictEqual(fill(1024).length, 1024)
    assert.isTrue(Result.isSuccess(Gts.parse(fill(1024))))
    assert.include(refusal(fill(1025)), "longer than 1024")
    assert.isBelow(refusal(fill(100_000)).length, 400)
  })

  it("reads a reference with or without its scheme", () => {
    for (const text of ["gts://gts.x.core._.t.v1~", "gts.x.core._.t.v1~"]) {
      assert.isTrue(Gts.isReference(text))
      assert.strictEqual(Result.getOrThrow(Gts.parseReference(text)).id, "gts.x.core._.t.v1~")
    }
    assert.isFalse(Gts.isReference("#/$defs/gts."))
  })
})

describe("Gts.matches", () => {
  it.prop("any minor version of a major fits an identifier without one", [Segments, version], ([segments, minor]) => {
    const [first, ...rest] = segments
    const { minor: _, ...bare } = first
    const wanted = parsed(writeType([bare, ...rest]))
    assert.isTrue(Gts.matches(wanted, parsed(writeType([{ ...bare, minor }, ...rest]))))
    assert.isFalse(Gts.matches(wanted, parsed(writeType([{ ...bare, minor, major: bare.major + 1 }, ...rest]))))
  })

  it("a minor version that is asked for fits itself alone", () => {
    const wanted = parsed("gts.x.core._.t.v1.2~")
    assert.isTrue(Gts.matches(wanted, wanted))
    assert.isFalse(Gts.matches(wanted, parsed("gts.x.core._.t.v1.3~")))
    assert.isFalse(Gts.matches(wanted, parsed("gts.x.core._.t.v1~")))
  })

  it.prop("versions order as numbers", [version, version], ([a, b]) => {
    const order = Gts.compareMinor(parsed(`gts.x.core._.t.v1.${a}~`), parsed(`gts.x.core._.t.v1.${b}~`))
    assert.strictEqual(Math.sign(order), Math.sign(a - b))
  })
})

describe("Gts.toolName", () => {
  it.prop("is always a name that providers take", [Segments], ([segments]) => {
    for (const id of [writeType(segments), `${writeType(segments)}${uuid}`]) {
      assert.match(Gts.toolName(parsed(id)), /^[A-Za-z0-9_-]{1,64}$/)
    }
  })

  it("comes from the last segment", () => {
    assert.strictEqual(Gts.toolName(parsed("gts.x.core.faas.func.v1~acme.weather._.get_forecast.v1")), "get_forecast")
    assert.strictEqual(Gts.toolName(parsed(`gts.x.core.faas.func.v1~${uuid}`)), "func_7a1d2f34")
    assert.strictEqual(Gts.toolName(parsed(`gts.x.core.faas.${"f".repeat(80)}.v1~`)).length, 64)
  })
})
