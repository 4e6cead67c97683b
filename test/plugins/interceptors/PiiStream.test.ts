/** Streams: what is found does not depend on how the text was cut, and nothing else waits, gets lost or changes places. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Queue, Schema, Stream } from "effect"
import * as Pii from "../../../src/plugins/interceptors/pii/Pii.ts"
import type { ChatChunk, ChatRequest, PartDelta } from "../../../src/sdk/Chat.ts"
import { chunksOf, collect } from "../../../src/sdk/ChatStream.ts"
import { type Part, text, textOf } from "../../../src/sdk/Content.ts"
import { fail, type GatewayError, ProviderFailed } from "../../../src/sdk/GatewayError.ts"
import { answered, answering, asking, chunk, contextOf, ending, intercepted, says, streamed } from "./Answers.ts"

const textsOf = (chunks: Iterable<ChatChunk>): ReadonlyArray<string> =>
  Array.from(chunks).flatMap(({ delta }) => delta.map((each) => each.type === "text" ? each.text : ""))

const cut = (value: string, sizes: ReadonlyArray<number>): ReadonlyArray<string> => {
  const pieces: Array<string> = []
  let at = 0
  for (const size of sizes) {
    if (at >= value.length) break
    pieces.push(value.slice(at, at + size))
    at += size
  }
  return at < value.length ? [...pieces, value.slice(at)] : pieces
}

const Piece = Schema.Literals([
  "jane@example.com",
  "a",
  "@",
  ".",
  "com",
  " ",
  " ",
  "-",
  "+49 170 1234567",
  "+",
  "(555) 123-4567",
  "0170/1234567",
  "(",
  ")",
  "4111 1111 1111 1111",
  "4111111111111111",
  "1",
  "0",
  "00",
  "23",
  "45",
  "DE89 3704 0044 0532 0130 00",
  "DE89",
  "192.168.0.1",
  "10.",
  "fe80::1",
  "::",
  ":",
  "ff",
  "EMP-123456",
  "EMP-",
  "x",
  "é",
  "😀",
  "日本",
  "\n",
  "\"",
  "\\",
  "<EMAIL_1>",
  "<",
  "Tel: "
])
const Pieces = Schema.Array(Piece).check(Schema.isMaxLength(14))
const Sizes = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 }))).check(
  Schema.isMaxLength(120)
)
const patterns = { id: "\\bEMP-\\d{6}\\b", x: "x.?x" }

describe("a streamed answer", () => {
  it.effect.prop(
    "reads as the whole one, however it was cut",
    [Pieces, Sizes],
    ([pieces, sizes]) =>
      Effect.gen(function*() {
        const pii = yield* Pii.make({ patterns })
        const value = pieces.join("")
        const whole = yield* answered(pii, answering(value))
        const chunks = yield* Stream.runCollect(
          streamed(pii, [...cut(value, sizes).map((piece) => says(piece)), ...ending])
        )
        assert.strictEqual(textsOf(chunks).join(""), textOf(whole.content))
        assert.deepStrictEqual(chunks.slice(-2), ending)
      }),
    { arbitrary: { runs: 3_000 } }
  )

  it.effect.prop(
    "and so do a call's arguments, which stay JSON",
    [Schema.Array(Pieces).check(Schema.isMaxLength(4)), Sizes],
    ([values, sizes]) =>
      Effect.gen(function*() {
        const pii = yield* Pii.make({ patterns })
        const given = Object.fromEntries(
          values.map((pieces, index) => [`k${index}`, { deep: [pieces.join(""), 1.50, null] }])
        )
        const json = JSON.stringify(given)
        const whole = yield* answered(pii, answering({ type: "tool_call", id: "c", name: "f", arguments: json }))
        const calls = (each: string): PartDelta => ({ type: "tool_call", index: 0, arguments: each })
        const response = yield* collect(streamed(pii, [
          chunk({ type: "tool_call", index: 0, id: "c", name: "f" }),
          ...cut(json, sizes).map((piece) => chunk(calls(piece))),
          ...ending
        ]))
        assert.deepStrictEqual(response.content, whole.content)
        const [call] = response.content
        const args: unknown = call?.type === "tool_call" ? JSON.parse(call.arguments) : undefined
        const expected: Record<string, unknown> = {}
        for (const [key, { deep: [first, ...rest] }] of Object.entries(given)) {
          const alone = yield* answered(pii, answering(String(first)))
          expected[key] = { deep: [textOf(alone.content), ...rest] }
        }
        assert.deepStrictEqual(args, expected)
      }),
    { arbitrary: { runs: 400 } }
  )

  it.effect("passes on at once what cannot be the beginning of a finding", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({})
      const queue = yield* Queue.unbounded<ChatChunk, Cause.Done>()
      const pull = yield* Stream.toPull(streamed(pii, Stream.fromQueue(queue)))
      const push = (piece: string) => Effect.andThen(Queue.offer(queue, says(piece)), Effect.map(pull, textsOf))
      // A word goes on as soon as its end has come.
      assert.deepStrictEqual(yield* push("Hello "), ["Hello "])
      assert.deepStrictEqual(yield* push("there, jane"), ["there, "])
      assert.deepStrictEqual(yield* push("@example.com. And"), ["[EMAIL]. "])
      assert.deepStrictEqual(yield* push(" then 20"), ["And then "])
      assert.deepStrictEqual(yield* push("26!\n"), ["2026!\n"])
      assert.deepStrictEqual(yield* push("日本語のテキスト"), ["日本語のテキスト"])
    }))

  it.effect("holds back at most as much as the longest finding has", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ patterns: { all: "<.*>" } })
      let sent = 0
      let seen = 0
      let most = 0
      const pieces = ["a".repeat(700), "@", "a.".repeat(400), "<".repeat(600), "1 ".repeat(300)].join("").split("")
      yield* Stream.runForEach(
        streamed(
          pii,
          Stream.fromIterable(pieces).pipe(
            Stream.rechunk(1),
            Stream.map((piece) => {
              most = Math.max(most, sent++ - seen)
              return says(piece)
            })
          )
        ),
        (each) => Effect.sync(() => void (seen += textsOf([each]).join("").length))
      )
      assert.strictEqual(seen, sent)
      assert.isAtMost(most, 322)
    }))

  it.effect("keeps the order of chunks, and each of them once", () =>
    Effect.gen(function*() {
      const image: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: "AA==" } }
      const pii = yield* Pii.make({})
      const chunks: ReadonlyArray<ChatChunk> = [
        chunk(),
        says("write jane"),
        { ...says("@example"), choice: 1 },
        says("@example.com or joe", 0),
        says("joe@x.org", 1),
        { ...says(".com"), choice: 1 },
        chunk({ type: "part", index: 2, part: image }),
        chunk({ type: "refusal", index: 3, text: "no, joe@" }, { type: "tool_call", index: 4, id: "c", name: "f" }),
        { ...chunk({ type: "tool_call", index: 4, arguments: "{\"to\":\"joe@x.org\"" }), finishReason: "length" },
        { ...chunk(), choice: 1, finishReason: "stop" },
        ...ending.slice(1)
      ]
      const seen = yield* Stream.runCollect(streamed(pii, chunks))
      const response = yield* collect(Stream.fromIterable(seen))
      assert.deepStrictEqual(response.content, [
        text("write [EMAIL] or joe"),
        text("[EMAIL]"),
        image,
        { type: "refusal", text: "no, joe@" },
        { type: "tool_call", id: "c", name: "f", arguments: "{\"to\":\"[EMAIL]\"" }
      ])
      assert.deepStrictEqual(response.alternatives?.map(({ content }) => content), [[text("@example.com")]])
      assert.strictEqual(response.finishReason, "length")
      assert.deepStrictEqual(seen.filter(({ usage }) => usage !== undefined), ending.slice(1))
      assert.strictEqual(seen.at(-1)?.usage?.inputTokens, 1)
      assert.lengthOf(seen.filter(({ finishReason }) => finishReason !== undefined), 2)
      // Within a choice, parts come one after the other.
      const indices = seen.filter(({ choice = 0 }) => choice === 0).flatMap(({ delta }) =>
        delta.map(({ index }) => index)
      )
      assert.deepStrictEqual(indices, indices.toSorted((a, b) => a - b))
    }))

  it.effect("that needs no change is the one that came, chunk for chunk", () =>
    Effect.gen(function*() {
      const chunks = [
        says("One, "),
        says("two, "),
        chunk({ type: "tool_call", index: 1, id: "c", name: "f", arguments: "{}" }),
        ...ending
      ]
      const seen = yield* Stream.runCollect(streamed(yield* Pii.make({}), chunks))
      assert.isTrue(seen.every((each, index) => each === chunks[index]))
      assert.lengthOf(seen, chunks.length)
    }))

  it.effect("that fails gives out what was held, and then the failure", () =>
    Effect.gen(function*() {
      const cutOff = fail(new ProviderFailed({ message: "cut", kind: "transient", provider: "p" }))
      const seen: Array<ChatChunk> = []
      const exit = yield* Effect.exit(Stream.runForEach(
        streamed(
          yield* Pii.make({}),
          Stream.concat(Stream.make(says("to a@b.org, jane@example.co")), Stream.fail<GatewayError>(cutOff))
        ),
        (each) => Effect.sync(() => void seen.push(each))
      ))
      assert.strictEqual(textsOf(seen).join(""), "to [EMAIL], [EMAIL]")
      assert.strictEqual(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, cutOff)
    }))

  it.effect("is blocked at the finding, and what stands before it is all that is seen of it", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ name: "guard", action: "block" })
      const seen: Array<ChatChunk> = []
      const error = yield* Effect.flip(Stream.runForEach(
        streamed(
          pii,
          Stream.rechunk(Stream.make(says("My card is "), says("4111 1111"), says(" 1111 1111."), ...ending), 1)
        ),
        (each) => Effect.sync(() => void seen.push(each))
      ))
      assert.strictEqual(textsOf(seen).join(""), "My card is ")
      assert.strictEqual(error._tag === "GatewayError" ? error.code : "", "response_blocked")
      assert.strictEqual(error.message, "the answer was blocked by guard: it holds a credit card number")
    }))

  it.effect("loses its log probabilities, which would repeat the text", () =>
    Effect.gen(function*() {
      const extensions = {
        openai: { choice: { logprobs: { content: [{ token: "jane" }] }, kept: 1 } },
        ollama: { logprobs: [1], took: 2 }
      }
      const seen = yield* Stream.runCollect(streamed(yield* Pii.make({}), [{ ...says("Hi. "), extensions }, ...ending]))
      assert.deepStrictEqual(seen[0]?.extensions, { openai: { choice: { kept: 1 } }, ollama: { took: 2 } })
      const whole = yield* answered(yield* Pii.make({}), { ...answering("a@b.org"), extensions })
      assert.deepStrictEqual(whole.extensions, { openai: { choice: { kept: 1 } }, ollama: { took: 2 } })
    }))
})

describe("streamed reasoning", () => {
  const thinks = (value: string, rest: object = {}) => chunk({ type: "reasoning", index: 0, text: value, ...rest })
  const signature = chunk({ type: "reasoning", index: 0, signature: "s1", wire: "anthropic" })
  const read = (chunks: ReadonlyArray<ChatChunk>) =>
    Effect.gen(function*() {
      return yield* collect(streamed(yield* Pii.make({}), [...chunks, ...ending]))
    })

  it.effect("is left as it is where a signature follows", () =>
    Effect.gen(function*() {
      const { content } = yield* read([
        thinks("Ask jane@"),
        thinks("example.com about it, or joe"),
        signature,
        says("a@b.org", 1)
      ])
      assert.deepStrictEqual(content, [
        { type: "reasoning", text: "Ask jane@example.com about it, or joe", signature: "s1", wire: "anthropic" },
        text("[EMAIL]")
      ])
    }))

  it.effect("too long to wait for one is rewritten, and then has none that would not fit it", () =>
    Effect.gen(function*() {
      const long = "z ".repeat(300_000)
      const { content } = yield* read([
        thinks("Ask jane@example.com "),
        thinks(long),
        thinks(long),
        thinks("or a@b.org, "),
        thinks("joe@x.org"),
        signature
      ])
      assert.deepStrictEqual(content, [{ type: "reasoning", text: `Ask [EMAIL] ${long}${long}or [EMAIL], [EMAIL]` }])
    }))

  it.effect("is rewritten where none does, and goes on at once until there is something to rewrite", () =>
    Effect.gen(function*() {
      const { content } = yield* read([thinks("Ask jane@"), thinks("example.com about it"), says("Yes", 1)])
      assert.deepStrictEqual(content, [{ type: "reasoning", text: "Ask [EMAIL] about it" }, text("Yes")])
      const queue = yield* Queue.unbounded<ChatChunk, Cause.Done>()
      const pull = yield* Stream.toPull(streamed(yield* Pii.make({}), Stream.fromQueue(queue)))
      yield* Queue.offer(queue, thinks("Well, now. "))
      assert.deepStrictEqual((yield* pull)[0].delta, [{ type: "reasoning", index: 0, text: "Well, now. " }])
    }))
})

describe("pseudonyms in a streamed answer", () => {
  const values = "jane@example.com, joe@x.org and C:\\\"quoted\""
  const options: Pii.PiiOptions = { action: "pseudonymise", patterns: { path: "C:.*\"" } }
  const begin = Effect.fnUntraced(function*(request: ChatRequest = asking(values)) {
    const pii = yield* Pii.make(options)
    const { context } = contextOf()
    const sent = yield* intercepted(pii, request, context)
    return { context, pii, request: sent }
  })

  it.effect.prop(
    "get their values back, however they were cut",
    [
      Schema.Array(Schema.Literals(["<EMAIL_1>", "<EMAIL_2>", "<PATH_1>", "<EMAIL_3>", "<", "E", " ", "_1>", "<EMAIL"]))
        .check(
          Schema.isMaxLength(10)
        ),
      Sizes
    ],
    ([pieces, sizes]) =>
      Effect.gen(function*() {
        const { context, pii, request } = yield* begin()
        const value = pieces.join("")
        const expected = value.replaceAll("<EMAIL_1>", "jane@example.com").replaceAll("<EMAIL_2>", "joe@x.org")
          .replaceAll("<PATH_1>", "C:\\\"quoted\"")
        const seen = yield* collect(
          streamed(pii, [...cut(value, sizes).map((piece) => says(piece)), ...ending], request, context)
        )
        assert.strictEqual(textOf(seen.content), expected)
        const json = JSON.stringify({ value })
        const called = yield* collect(streamed(
          pii,
          [
            chunk({ type: "tool_call", index: 0, id: "c", name: "f" }),
            ...cut(json, sizes).map((piece) => chunk({ type: "tool_call", index: 0, arguments: piece })),
            ...ending
          ],
          request,
          context
        ))
        const [call] = called.content
        assert.deepStrictEqual(call?.type === "tool_call" ? JSON.parse(call.arguments) : {}, { value: expected })
      }),
    { arbitrary: { runs: 400 } }
  )

  it.effect("are restored with JSON's escapes where the answer is JSON", () =>
    Effect.gen(function*() {
      const { context, pii, request } = yield* begin({ ...asking(values), responseSchema: { type: "json_object" } })
      const answer = "{\"path\":\"<PATH_1>\"}"
      const whole = yield* answered(pii, answering(answer), request, context)
      assert.deepStrictEqual(JSON.parse(textOf(whole.content)), { path: "C:\\\"quoted\"" })
      const seen = yield* collect(streamed(pii, chunksOf(answering(answer)), request, context))
      assert.deepStrictEqual(seen.content, whole.content)
    }))

  it.effect("leave signed reasoning as the model signed it", () =>
    Effect.gen(function*() {
      const { context, pii, request } = yield* begin()
      const signed: Part = { type: "reasoning", text: "Write <EMAIL_1>.", signature: "s", wire: "anthropic" }
      const plain: Part = { type: "reasoning", text: "Write <EMAIL_1>." }
      const response = answering(signed, "<EMAIL_1>", plain)
      const expected = [signed, text("jane@example.com"), { ...plain, text: "Write jane@example.com." }]
      assert.deepStrictEqual((yield* answered(pii, response, request, context)).content, expected)
      const seen = yield* collect(streamed(pii, chunksOf(response), request, context))
      assert.deepStrictEqual(seen.content, expected)
    }))
})
