import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { type Framing, ndjson, sse, type WireEvent } from "../../src/wire/Framing.ts"

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)

/** The events of some bytes that come in these pieces; throws what the framing fails with. */
const cut = (framing: Framing, pieces: Iterable<Uint8Array>): ReadonlyArray<WireEvent> => {
  const events: Array<WireEvent> = []
  for (const piece of pieces) events.push(...Result.getOrThrow(framing.push(piece)))
  events.push(...Result.getOrThrow(framing.end()))
  return events.map(({ data, event }) => ({ event, data }))
}

const pieces = (bytes: Uint8Array, size: number): ReadonlyArray<Uint8Array> =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.subarray(index * size, (index + 1) * size))

/** All ways to cut some bytes in two, and the cut into single bytes. */
const everyCut = (bytes: Uint8Array): ReadonlyArray<ReadonlyArray<Uint8Array>> => [
  ...Array.from({ length: bytes.length + 1 }, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]),
  pieces(bytes, 1)
]

const readSse = (text: string) => cut(sse(), [bytesOf(text)])
const readNdjson = (text: string) => cut(ndjson(), [bytesOf(text)])
const message = (data: string): WireEvent => ({ event: "message", data })
const line = (data: string): WireEvent => ({ event: "", data })

const failureOf = (result: Result.Result<unknown, { readonly kind: string }>): string | undefined =>
  Result.isFailure(result) ? result.failure.kind : undefined

describe("sse", () => {
  it("ends lines at LF, CRLF and a lone CR alike", () => {
    for (const end of ["\n", "\r\n", "\r"]) {
      const text = `event: a${end}data: 1${end}${end}data: 2${end}data: 3${end}${end}`
      assert.deepStrictEqual(readSse(text), [{ event: "a", data: "1" }, message("2\n3")])
    }
  })

  it("passes over comments, ids, retry times and fields that it does not know", () => {
    const text = ": OPENROUTER PROCESSING\n\n:\nid: 7\nretry: 3000\nfoo: bar\nfoo\ndata: 1\nid: 8\n\n"
    assert.deepStrictEqual(readSse(text), [message("1")])
  })

  it("takes one space after the colon away, no more, and needs none", () => {
    assert.deepStrictEqual(readSse("data:1\n\ndata: 1\n\ndata:  1\n\ndata:\t1\n\n"), [
      message("1"),
      message("1"),
      message(" 1"),
      message("\t1")
    ])
  })

  it("keeps colons and empty lines of data", () => {
    assert.deepStrictEqual(readSse("data: {\"a\":1}\n\ndata\ndata: x\ndata:\n\n"), [
      message("{\"a\":1}"),
      message("\nx\n")
    ])
  })

  it("names an event by its last event field, for that event alone", () => {
    assert.deepStrictEqual(readSse("event: a\nevent: b\ndata: 1\n\ndata: 2\n\nevent: c\n\ndata: 3\n\n"), [
      { event: "b", data: "1" },
      message("2"),
      message("3")
    ])
  })

  it("ignores a byte-order mark at the start, and only there", () => {
    assert.deepStrictEqual(readSse("\ufeffdata: 1\n\ndata: \ufeff2\n\n"), [message("1"), message("\ufeff2")])
  })

  it("counts a last event that lacks its blank line, or its line end", () => {
    for (const text of ["data: 1\n\ndata: [DONE]", "data: 1\n\ndata: [DONE]\n", "data: 1\r\n\r\ndata: [DONE]\r\n"]) {
      assert.deepStrictEqual(readSse(text), [message("1"), message("[DONE]")])
    }
    assert.deepStrictEqual(readSse("data: 1\r\rdata: 2\r"), [message("1"), message("2")])
  })

  it("has no events in nothing, comments or blank lines", () => {
    for (const text of ["", "\n\n\n", ": ping\n\n: ping\n\n", "event: a\n\n", "\ufeff"]) {
      assert.deepStrictEqual(readSse(text), [])
    }
  })

  it("gives an event as soon as its blank line is there", () => {
    const framing = sse()
    assert.deepStrictEqual(Result.getOrThrow(framing.push(bytesOf("data: 1\n"))), [])
    assert.strictEqual(Result.getOrThrow(framing.push(bytesOf("\n"))).length, 1)
    assert.strictEqual(Result.getOrThrow(framing.push(bytesOf("data: 2\r\n\r"))).length, 1)
    assert.deepStrictEqual(Result.getOrThrow(framing.push(bytesOf("\n"))), [])
  })

  it("is indifferent to where the network cuts: within characters, line ends and the byte-order mark", () => {
    const text = "\ufeff: ü\r\nevent: é\r\ndata: 😊\r\ndata: 漢字\r\n\r\rdata: a\n\n\rdata: ende ß"
    const expected = [{ event: "é", data: "😊\n漢字" }, message("a"), message("ende ß")]
    for (const cuts of everyCut(bytesOf(text))) assert.deepStrictEqual(cut(sse(), cuts), expected)
  })

  it("replaces a character that never ends", () => {
    const bytes = bytesOf("data: 😊")
    assert.deepStrictEqual(cut(sse(), [bytes.subarray(0, bytes.length - 1)]), [message("\ufffd")])
  })

  it("fails for an event that does not end, and not for many small ones", () => {
    const mebibyte = "x".repeat(1024 * 1024)
    const oneLine = sse()
    let failed = failureOf(oneLine.push(bytesOf("data: ")))
    let pushed = 0
    while (failed === undefined && pushed < 80) {
      failed = failureOf(oneLine.push(bytesOf(mebibyte)))
      pushed++
    }
    assert.strictEqual(failed, "protocol")
    assert.strictEqual(pushed, 64)

    const manyEvents = sse()
    for (let at = 0; at < 80; at++) {
      assert.strictEqual(Result.getOrThrow(manyEvents.push(bytesOf(`data: ${mebibyte}\n\n`))).length, 1)
    }
  })

  it.prop(
    "any cut of the bytes gives the same events",
    [
      Schema.Array(
        Schema.Literals(["data: ", "data", "event: ", "id: ", ":", " ", "\r", "\n", "\r\n", "x", "é", "😊", "\ufeff"])
      ),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 7 }))
    ],
    ([tokens, size]) => {
      const bytes = bytesOf(tokens.join(""))
      assert.deepStrictEqual(cut(sse(), pieces(bytes, size)), cut(sse(), [bytes]))
    }
  )

  it.prop("what is framed comes out as it went in", [
    Schema.Array(Schema.String),
    Schema.Literals(["\n", "\r\n", "\r"])
  ], ([
    texts,
    end
  ]) => {
    const data = texts.map((text) => JSON.stringify(text))
    const bytes = bytesOf(data.map((item) => `data: ${item}${end}${end}`).join(""))
    assert.deepStrictEqual(cut(sse(), [bytes]), data.map(message))
  })
})

describe("ndjson", () => {
  it("gives a line for each event, without a name", () => {
    assert.deepStrictEqual(readNdjson("{\"a\":1}\n{\"b\":2}\n"), [line("{\"a\":1}"), line("{\"b\":2}")])
  })

  it("takes CRLF, and passes over blank lines", () => {
    assert.deepStrictEqual(readNdjson("\r\n1\r\n\n  \n\t\r\n2\r\n\n"), [line("1"), line("2")])
  })

  it("counts a last line without a line end", () => {
    assert.deepStrictEqual(readNdjson("1\n2"), [line("1"), line("2")])
    assert.deepStrictEqual(readNdjson("1\n2\r"), [line("1"), line("2")])
  })

  it("ignores a byte-order mark at the start", () => {
    assert.deepStrictEqual(readNdjson("\ufeff1\n"), [line("1")])
  })

  it("does not end a line at the separators that JSON allows inside of strings", () => {
    assert.deepStrictEqual(readNdjson("\"a\u2028b\u0085c\"\n"), [line("\"a\u2028b\u0085c\"")])
  })

  it("gives a line as soon as it ends", () => {
    const framing = ndjson()
    assert.deepStrictEqual(Result.getOrThrow(framing.push(bytesOf("1"))), [])
    assert.deepStrictEqual(Result.getOrThrow(framing.push(bytesOf("2\n3"))), [line("12")])
    assert.deepStrictEqual(Result.getOrThrow(framing.end()), [line("3")])
  })

  it("is indifferent to where the network cuts, characters included", () => {
    const text = "{\"a\":\"😊\"}\r\n\n{\"b\":\"漢字 é\"}\n3"
    const expected = [line("{\"a\":\"😊\"}"), line("{\"b\":\"漢字 é\"}"), line("3")]
    for (const cuts of everyCut(bytesOf(text))) assert.deepStrictEqual(cut(ndjson(), cuts), expected)
  })

  it("fails for a line that does not end, and not for many small ones", () => {
    const mebibyte = bytesOf("x".repeat(1024 * 1024))
    const oneLine = ndjson()
    for (let at = 0; at < 64; at++) assert.isUndefined(failureOf(oneLine.push(mebibyte)))
    assert.strictEqual(failureOf(oneLine.push(mebibyte)), "protocol")

    const manyLines = ndjson()
    for (let at = 0; at < 80; at++) {
      Result.getOrThrow(manyLines.push(mebibyte))
      assert.strictEqual(Result.getOrThrow(manyLines.push(bytesOf("\n"))).length, 1)
    }
  })

  it("measures lines, not what comes at once", () => {
    const lines = bytesOf(`${"x".repeat(1024 * 1024)}\n`.repeat(65))
    assert.strictEqual(Result.getOrThrow(ndjson().push(lines)).length, 65)
  })

  it.prop(
    "any cut of the bytes gives the same events",
    [
      Schema.Array(Schema.Literals(["{", "}", " ", "\r", "\n", "\r\n", "x", "é", "😊", "\ufeff"])),
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 7 }))
    ],
    ([tokens, size]) => {
      const bytes = bytesOf(tokens.join(""))
      assert.deepStrictEqual(cut(ndjson(), pieces(bytes, size)), cut(ndjson(), [bytes]))
    }
  )

  it.prop("what is framed comes out as it went in", [Schema.Array(Schema.String)], ([texts]) => {
    const data = texts.map((text) => JSON.stringify(text))
    assert.deepStrictEqual(cut(ndjson(), [bytesOf(data.map((item) => `${item}\n`).join(""))]), data.map(line))
  })
})
