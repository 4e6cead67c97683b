/** A chain that was tampered with is found out, at the line where it was. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Chain from "../../../src/plugins/audit/jsonl/Chain.ts"
import { inOrder, verify, type VerifyOptions } from "../../../src/plugins/audit/jsonl/Verify.ts"
import type { AuditEvent } from "../../../src/sdk/AuditSink.ts"

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "audit-verify-"))
})
afterAll(() => rm(folder, { recursive: true }))

const event = (number: number, details: AuditEvent["details"] = {}): AuditEvent => ({
  type: "request_completed",
  at: 1_700_000_000_000 + number,
  requestId: `req_${number}`,
  tenant: "acme",
  details: { status: 200, ...details }
})

/** The lines of a chain, newlines included, and its end. */
const chainOf = (events: ReadonlyArray<AuditEvent>, after = Chain.genesis) => {
  const { head, text } = Chain.append(after, [], events)
  return { head, lines: text.split(/(?<=\n)/).filter((line) => line !== "") }
}

const events = Array.from({ length: 9 }, (_, index) => event(index))
const { head, lines } = chainOf(events)

/** Checks lines as they stand in one file, or cut into two. */
const check = (content: ReadonlyArray<string | Uint8Array>, options: VerifyOptions = { head }, cutAt?: number) =>
  Effect.gen(function*() {
    const cut = content.length === 0 ? undefined : cutAt
    const bytes = content.map((line) => Buffer.from(line))
    const files = cut === undefined ? [bytes] : [bytes.slice(0, cut), bytes.slice(cut)]
    const paths = files.map((_, index) => join(folder, `audit.jsonl${index === files.length - 1 ? "" : ".1"}`))
    yield* Effect.promise(() =>
      Promise.all(files.map((part, index) => writeFile(paths[index] ?? "", Buffer.concat(part))))
    )
    const report = yield* verify(paths, options)
    // Lines are counted through all files.
    const found = report.problems.map(({ file, kind, line }) => ({
      kind,
      line: cut !== undefined && file === paths[1] ? line + cut : line
    }))
    return { ...report, found, at: found[0]?.line }
  })

const cuts = [undefined, 4]

describe("a whole chain", () => {
  for (const cut of cuts) {
    it.effect(`is whole, in ${cut === undefined ? "one file" : "two"}`, () =>
      Effect.gen(function*() {
        const report = yield* check(lines, {}, cut)
        assert.deepStrictEqual(report.problems, [])
        assert.strictEqual(report.lines, 9)
        assert.strictEqual(report.first, 1)
        assert.deepStrictEqual(report.head, head)
      }))
  }

  it.effect("contains the heads that it had, and no others", () =>
    Effect.gen(function*() {
      const earlier = chainOf(events.slice(0, 5)).head
      assert.deepStrictEqual((yield* check(lines, { head: earlier })).problems, [])
      assert.deepStrictEqual((yield* check(lines, { head: { hash: earlier.hash } })).problems, [])
      const other = { hash: "a".repeat(64) }
      assert.deepStrictEqual((yield* check(lines, { head: other })).found, [{ line: 10, kind: "truncated" }])
      const misplaced = { hash: earlier.hash, seq: 6 }
      assert.deepStrictEqual((yield* check(lines, { head: misplaced })).found, [{ line: 6, kind: "changed" }])
    }))

  it.effect("may be empty, unless something is expected of it", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* check([], {})).problems, [])
      assert.deepStrictEqual((yield* check([])).found, [{ line: 1, kind: "truncated" }])
    }))

  it.effect("of any content is whole", () => {
    const Details = Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Finite, Schema.Boolean]))
    return Effect.gen(function*() {
      const samples = [{ a: "\n\r\u2028\u0000\"\\", b: "\uD800", ["__proto__"]: "x", "": 1e300 }, {}]
      for (const details of samples) {
        assert.isTrue(Schema.is(Details)(details))
        const { lines } = chainOf([event(1, details), event(2, details)])
        assert.deepStrictEqual((yield* check(lines, {})).problems, [])
      }
    })
  })
})

describe("a single change is found at its line", () => {
  for (const cut of cuts) {
    const where = cut === undefined ? "in one file" : "across two files"

    it.live(`every byte of every line, ${where}`, () =>
      Effect.gen(function*() {
        let tried = 0
        for (const [index, line] of lines.entries()) {
          const original = Buffer.from(line)
          for (let place = 0; place < original.length; place += cut === undefined ? 1 : 7) {
            const bytes = Buffer.from(original)
            // Digits become other digits, so that what is changed is often a line all the same.
            const byte = bytes[place] ?? 0
            bytes[place] = byte >= 0x30 && byte <= 0x39
              ? 0x30 + (byte - 0x30 + 1 + place % 9) % 10
              : byte ^ (1 + place % 7)
            const changed = lines.map((other, at) => at === index ? bytes : other)
            const { at } = yield* check(changed, { head }, cut)
            assert.strictEqual(at, index + 1, `byte ${place} of line ${index + 1}: ${bytes.toString()}`)
            tried++
          }
        }
        assert.isAbove(tried, 200)
      }), 60_000)

    it.live(`a line break within a line, ${where}`, () =>
      Effect.gen(function*() {
        for (const [index, line] of lines.entries()) {
          for (const place of [0, 1, 40, line.length - 2]) {
            const broken = `${line.slice(0, place)}\n${line.slice(place + 1)}`
            const { at } = yield* check(lines.map((other, at) => at === index ? broken : other), { head }, cut)
            assert.strictEqual(at, index + 1)
          }
        }
      }))

    it.live(`a line that is missing, ${where}`, () =>
      Effect.gen(function*() {
        for (const index of lines.keys()) {
          const { found } = yield* check(lines.toSpliced(index, 1), { head }, cut)
          const kind = index === lines.length - 1 ? "truncated" : "missing"
          assert.deepStrictEqual(found, [{ line: index + 1, kind }])
        }
      }))

    it.live(`several lines that are missing, ${where}`, () =>
      Effect.gen(function*() {
        for (let from = 0; from < lines.length; from++) {
          for (let count = 2; from + count <= lines.length; count++) {
            const { at } = yield* check(lines.toSpliced(from, count), { head }, cut)
            assert.strictEqual(at, from + 1)
          }
        }
      }))

    it.live(`two lines that changed places, ${where}`, () =>
      Effect.gen(function*() {
        for (let one = 0; one < lines.length; one++) {
          for (let other = one + 1; other < lines.length; other++) {
            const swapped = lines.with(one, lines[other] ?? "").with(other, lines[one] ?? "")
            const { at, found } = yield* check(swapped, { head }, cut)
            assert.strictEqual(at, one + 1, `${one + 1} and ${other + 1}`)
            if (other === one + 1) assert.deepStrictEqual(found, [{ line: one + 1, kind: "reordered" }])
          }
        }
      }))

    it.live(`a copy of a line in a place where it does not belong, ${where}`, () =>
      Effect.gen(function*() {
        for (const [from, line] of lines.entries()) {
          for (let to = 0; to <= lines.length; to++) {
            const { at } = yield* check(lines.toSpliced(to, 0, line), { head }, cut)
            // Of two equal neighbours either is the copy.
            if (to === from || to === from + 1) assert.include([from + 1, from + 2], at)
            else assert.strictEqual(at, to + 1, `a copy of ${from + 1} before ${to + 1}`)
          }
        }
      }))

    it.live(`a forged line, linked to the one before it, ${where}`, () =>
      Effect.gen(function*() {
        for (let to = 0; to < lines.length; to++) {
          const before = to === 0 ? Chain.genesis : chainOf(events.slice(0, to)).head
          const [forged = ""] = chainOf([event(666)], before).lines
          const { found } = yield* check(lines.toSpliced(to, 0, forged), { head }, cut)
          // The last one stands where the expected head should be.
          const kind = to === lines.length - 1 ? "changed" : "inserted"
          assert.deepStrictEqual(found, [{ line: to + 1, kind }])
        }
      }))

    it.live(`a forged line in the place of another, ${where}`, () =>
      Effect.gen(function*() {
        for (let to = 0; to < lines.length; to++) {
          const before = to === 0 ? Chain.genesis : chainOf(events.slice(0, to)).head
          const [forged = ""] = chainOf([event(666)], before).lines
          const { found } = yield* check(lines.with(to, forged), { head }, cut)
          assert.deepStrictEqual(found, [{ line: to + 1, kind: "changed" }])
        }
      }))
  }

  it.effect("a file that is missing in the middle", () =>
    Effect.gen(function*() {
      const { found, problems } = yield* check(lines.toSpliced(3, 3), {}, 3)
      assert.deepStrictEqual(found, [{ line: 4, kind: "missing" }])
      assert.include(problems[0]?.message, "the lines 4 to 6 are missing")
    }))

  it.effect("an end that was torn", () =>
    Effect.gen(function*() {
      const torn = lines.with(8, lines[8]?.slice(0, 50) ?? "")
      assert.deepStrictEqual((yield* check(torn, {})).found, [{ line: 9, kind: "torn" }])
    }))

  it.effect("a line that is larger than memory should hold", () =>
    Effect.gen(function*() {
      const { found } = yield* check(lines.with(4, `{"seq":5,"x":"${"x".repeat(3 << 20)}"}\n`), {})
      assert.deepStrictEqual(found, [{ line: 5, kind: "changed" }])
    }))
})

describe("a chain whose first files were deleted", () => {
  const discarded = (seq: number, hash: string): Chain.ChainNote => ({
    type: "discarded",
    at: 0,
    details: { through_seq: seq, head: hash }
  })
  const four = chainOf(events.slice(0, 4)).head
  const after = chainOf(events.slice(4), four)

  it.effect("is whole where a later line says so, and is not where that speaks of others", () =>
    Effect.gen(function*() {
      const noted = Chain.append(after.head, [discarded(four.seq, four.hash)], [])
      const rest = [...after.lines, noted.text]
      assert.deepStrictEqual((yield* check(rest, {})).problems, [])
      assert.deepStrictEqual((yield* check(rest.slice(1), {})).found, [{ line: 1, kind: "missing" }])
      const elsewhere = Chain.append(after.head, [discarded(3, four.hash)], [])
      assert.deepStrictEqual(
        (yield* check([...after.lines, elsewhere.text], {})).found,
        [{ line: 1, kind: "missing" }]
      )
    }))

  it.effect("is not whole where nothing says so, unless it was asked for from there", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual((yield* check(after.lines, {})).found, [{ line: 1, kind: "missing" }])
      assert.deepStrictEqual((yield* check(after.lines, { from: 5 })).problems, [])
      assert.deepStrictEqual((yield* check(after.lines, { from: 4 })).found, [{ line: 1, kind: "missing" }])
      assert.deepStrictEqual((yield* check(lines, { from: 2 })).found, [{ line: 1, kind: "missing" }])
    }))
})

describe("files", () => {
  it("of one rotation are read by age, others as they are given", () => {
    assert.deepStrictEqual(inOrder(["a.jsonl", "a.jsonl.1", "a.jsonl.10", "a.jsonl.2"]), [
      "a.jsonl.10",
      "a.jsonl.2",
      "a.jsonl.1",
      "a.jsonl"
    ])
    assert.deepStrictEqual(inOrder(["b.jsonl", "a.jsonl.1"]), ["b.jsonl", "a.jsonl.1"])
  })

  it.effect("that cannot be read are named", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(verify([join(folder, "nowhere.jsonl")]))
      assert.include(error.message, "nowhere.jsonl")
    }))
})
