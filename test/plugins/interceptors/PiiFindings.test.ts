/** What counts as personal data, what does not, and that looking for it takes time linear in the text. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema, Stream } from "effect"
import { RE2JS } from "re2js"
import * as Pii from "../../../src/plugins/interceptors/pii/Pii.ts"
import { textOf } from "../../../src/sdk/Content.ts"
import { asking, ending, intercepted, says, streamed } from "./Answers.ts"

const redacted = Effect.fnUntraced(function*(value: string, options: Pii.PiiOptions = {}) {
  const { messages } = yield* intercepted(yield* Pii.make(options), asking(value))
  return textOf(messages[0].content)
})

const cases = (list: ReadonlyArray<readonly [text: string, expected: string]>) => {
  for (const [value, expected] of list) {
    it.effect(JSON.stringify(value), () => Effect.map(redacted(value), (found) => assert.strictEqual(found, expected)))
  }
}

const unchanged = (list: ReadonlyArray<string>) => cases(list.map((value) => [value, value]))

describe("e-mail addresses", () => {
  cases([
    ["jane.doe+news@mail.example.co.uk", "[EMAIL]"],
    ["Write to Jane <jane@example.com>, or 'joe@x.org'.", "Write to Jane <[EMAIL]>, or '[EMAIL]'."],
    ["mailto:jane@example.com?subject=x", "mailto:[EMAIL]?subject=x"],
    ["a@example.com,b@example.com;c@example.com", "[EMAIL],[EMAIL];[EMAIL]"],
    ["jörg@müller.de und иван@пример.рф", "[EMAIL] und [EMAIL]"],
    ["请联系jane@example.com谢谢", "请联系[EMAIL]谢谢"],
    ["ends with a stop: jane@example.com.", "ends with a stop: [EMAIL]."],
    ["o'brien_1@sub-domain.example.museum", "[EMAIL]"],
    ["in punycode: a@b.xn--p1ai", "in punycode: [EMAIL]"],
    [`${"a".repeat(64)}@example.com`, "[EMAIL]"]
  ])
  unchanged([
    "user@localhost",
    "@handle and a@b and a@b.c",
    "2 @ 3.50",
    "foo@ bar.com",
    "a@example.123",
    "@types/node@20.1"
  ])
})

describe("phone numbers", () => {
  cases([
    ["+49 170 1234567", "[PHONE]"],
    ["+491701234567", "[PHONE]"],
    ["+49 (0)30 123456", "[PHONE]"],
    ["+1 (555) 123-4567", "[PHONE]"],
    ["+1-555-123-4567 2024", "[PHONE] 2024"],
    ["+33 1 23 45 67 89", "[PHONE]"],
    ["+44 20 7946 0958, please", "[PHONE], please"],
    ["+86 138 0013 8000 3 times", "[PHONE] 3 times"],
    ["0049 30 1234567", "[PHONE]"],
    ["(555) 123-4567", "[PHONE]"],
    ["555-123-4567", "[PHONE]"],
    ["555.123.4567", "[PHONE]"],
    ["1-555-123-4567", "[PHONE]"],
    ["030 1234567", "[PHONE]"],
    ["030/123456-0?", "030/123456-0?"],
    ["0170/1234567", "[PHONE]"],
    ["0170-1234567", "[PHONE]"],
    ["020 7946 0958", "[PHONE]"],
    ["(020) 7946 0958", "[PHONE]"],
    ["01 23 45 67 89", "[PHONE]"],
    ["01.23.45.67.89", "[PHONE]"],
    ["02 9876 5432", "[PHONE]"],
    ["Tel.:+49 30 1234567.", "Tel.:[PHONE]."]
  ])
  unchanged([
    "order 0012345678",
    "order 2345678901",
    "order 4711-0815",
    "20240102",
    "2024-01-02 10:30",
    "01.02.2024",
    "01-02-2024 10:30",
    "05/12/2024",
    "2023-2024",
    "1700000000000",
    "123-45-6789",
    "ISBN 978-3-16-148410-0",
    "1,000,000.00 and 3.14159 and 10 000 000",
    "555-123-4567-890",
    "A555-123-4567",
    "1.2.3 and 10.15.7",
    "+1 + 2 + 3",
    "x+4917012345678901234"
  ])
})

describe("credit card numbers", () => {
  cases([
    ["4111111111111111", "[CREDIT_CARD]"],
    ["4111 1111 1111 1111 12/27", "[CREDIT_CARD] 12/27"],
    ["4111-1111-1111-1111", "[CREDIT_CARD]"],
    ["3782 822463 10005", "[CREDIT_CARD]"],
    ["5555555555554444, 6011111111111117", "[CREDIT_CARD], [CREDIT_CARD]"],
    ["4222222222222 has 13", "[CREDIT_CARD] has 13"],
    ["6304000000000000 000", "[CREDIT_CARD] 000"]
  ])
  unchanged([
    "4111111111111112",
    "411111111111111",
    "41111111111111111111",
    "x4111111111111111",
    "4111111111111111x",
    "1000000000000009",
    "4111 11"
  ])
})

describe("IBANs", () => {
  cases([
    ["DE89370400440532013000", "[IBAN]"],
    ["DE89 3704 0044 0532 0130 00.", "[IBAN]."],
    ["de89370400440532013000", "[IBAN]"],
    ["GB29 NWBK 6016 1331 9268 19", "[IBAN]"],
    ["NO9386011117947", "[IBAN]"],
    ["MT84MALT011000012345MTLCAST001S", "[IBAN]"]
  ])
  unchanged([
    "DE88370400440532013000",
    "DE8937040044053201300",
    "DE893704004405320130001",
    "XX89370400440532013000",
    "DE12"
  ])
})

describe("IP addresses", () => {
  cases([
    ["192.168.0.1", "[IP]"],
    ["http://10.0.0.1:8080/x", "http://[IP]:8080/x"],
    ["at 10.0.0.1.", "at [IP]."],
    ["2001:db8:85a3::8a2e:370:7334", "[IP]"],
    ["2001:0db8:0000:0000:0000:8a2e:0370:7334", "[IP]"],
    ["fe80::1%eth0 and ::1", "[IP]%eth0 and [IP]"],
    ["[2001:db8::1]:443", "[[IP]]:443"],
    ["::ffff:192.0.2.1", "[IP]"],
    ["2001:db8::/32", "[IP]/32"]
  ])
  unchanged([
    "1.2.3",
    "1.2.3.4.5",
    "v1.2.3.4",
    "256.1.1.1",
    "01.02.03.04",
    "std::vector a::b x :: Int",
    "12:30:45",
    "00:1a:2b:3c:4d:5e",
    "1:2:3:4:5:6:7"
  ])
})

describe("patterns of one's own", () => {
  const patterns = { "employee-id": "\\bEMP-\\d{6}\\b", secret: "(?i)top\\s+secret" }

  it.effect("are found beside the rest, and before it", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* redacted("EMP-123456 (jane@x.org) is Top  Secret, EMP-1234567 is not", { patterns }),
        "[EMPLOYEE_ID] ([EMAIL]) is [SECRET], EMP-1234567 is not"
      )
      assert.strictEqual(yield* redacted("4111111111111111", { patterns: { nr: "\\d+" } }), "[NR]")
      assert.strictEqual(
        yield* redacted("jane@x.org 1.2.3.4", { detect: [], patterns: { q: "x" } }),
        "jane@[Q].org 1.2.3.4"
      )
    }))

  it.effect.each(
    [
      [
        "(a)\\1",
        "RE2 does not take the pattern: invalid escape sequence; RE2 has neither look-around nor back references"
      ],
      [
        "(?=a)b",
        "RE2 does not take the pattern: invalid or unsupported Perl syntax; RE2 has neither look-around nor back references"
      ],
      ["[a", "RE2 does not take the pattern: missing closing ]"],
      ["a*", "the pattern matches the empty text, and so everything"],
      ["(?:a{500}){500}", "RE2 does not take the pattern: invalid repeat count"]
    ] as const
  )("that RE2 does not take are errors that say why: %s", ([pattern, problem]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Pii.make({ name: "mine", patterns: { bad: pattern } }))
      assert.strictEqual(error.message, `the interceptor "mine" cannot be made: patterns.bad: ${problem}`)
    }))

  it.effect("are not needed, but something to look for is", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(Pii.make({ detect: [] }))).option, "detect")
    }))

  // The machine that runs RE2's programs here, against RE2JS itself.
  const Atom = Schema.Literals([
    "a",
    "b",
    "(?:ab|a)",
    "[ab]",
    "[^a]",
    ".",
    "\\b",
    "\\B",
    "\\w",
    " ",
    "(?i)A",
    "(?:a|b|ab)"
  ])
  const Repeat = Schema.Literals(["", "", "", "*", "+", "?", "{1,2}", "*?", "+?"])
  const Pattern = Schema.Array(Schema.Tuple([Atom, Repeat])).check(Schema.isMinLength(1), Schema.isMaxLength(5))
  const Text = Schema.Array(Schema.Literals(["a", "b", "A", " ", "\n", "c", "é", "😀"])).check(Schema.isMaxLength(12))
  it.effect.prop(
    "match where RE2 says, over random patterns and texts",
    [Pattern, Text],
    ([atoms, letters]) =>
      Effect.gen(function*() {
        const source = atoms.map((atom) => atom.join("")).join("")
        const value = letters.join("")
        const re2 = RE2JS.compile(source)
        // What matches nothing is no pattern for finding.
        if (re2.test("") || re2.matcher(value).replaceAll("<$&>").includes("<>")) return
        const expected = re2.matcher(value).replaceAll("[P]")
        assert.strictEqual(yield* redacted(value, { detect: [], patterns: { p: source } }), expected)
      }),
    { arbitrary: { runs: 2_000 } }
  )
})

describe("time", () => {
  const size = 1_000_000
  const fill = (piece: string) => piece.repeat(Math.ceil(size / piece.length)).slice(0, size)
  const hostile: ReadonlyArray<readonly [string, string]> = [
    ["letters", `@1${fill("a")}`],
    ["dots", `@1${fill("a.")}`],
    ["ats", `1${fill("a@")}`],
    ["domains", `1${fill("a@b.c.")}`],
    ["digits", `@${fill("4")}`],
    ["groups", `@${fill("4111 ")}`],
    ["phones", `@${fill("030 12 ")}`],
    ["pluses", `@${fill("+1 (")}`],
    ["colons", `@${fill("1:")}`],
    ["hex", `@1${fill("f:")}`],
    ["countries", `@${fill("DE89 ")}`],
    ["placeholders", `@1${fill("<EMAIL_")}`]
  ]
  const looksThrough = Effect.fnUntraced(function*(value: string, options: Pii.PiiOptions) {
    const pii = yield* Pii.make(options)
    yield* intercepted(pii, asking(value))
    const pieces: Array<string> = []
    for (let at = 0; at < value.length; at += 1_000) pieces.push(value.slice(at, at + 1_000))
    const seen = yield* Stream.runCollect(streamed(pii, [...pieces.map((piece) => says(piece)), ...ending]))
    assert.deepStrictEqual(seen.slice(-2), ending)
  })

  // What takes quadratic time takes hours here.
  it.effect.each(hostile)("is linear in a megabyte of %s", ([, value]) => looksThrough(value, {}))

  it.effect.each(
    [
      ["(?:x+x+)+y", fill("x")],
      ["a.*z|zz", fill("a")],
      ["(?:a|a|aa)*b", fill("a")]
    ] as const
  )(
    "is linear for the pattern %s, too",
    ([pattern, value]) => looksThrough(value.slice(0, size / 5), { detect: [], patterns: { pattern } })
  )

  it.effect("leaves others their turn, however large the text is", () =>
    Effect.gen(function*() {
      let turns = 0
      const other = yield* Effect.forkChild(
        Effect.forever(Effect.andThen(Effect.yieldNow, Effect.sync(() => void turns++)))
      )
      yield* intercepted(yield* Pii.make({}), asking(fill("4111 a@b ")))
      yield* Fiber.interrupt(other)
      assert.isAtLeast(turns, 10)
    }))
})
