import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Option, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { checkResponse } from "../../../../src/gateway/StructuredOutput.ts"
import * as Sandbox from "../../../../src/plugins/providers/sandbox/Sandbox.ts"
import type { ChatChunk, ChatResponse, Message } from "../../../../src/sdk/Chat.ts"
import { type Part, text, textOf } from "../../../../src/sdk/Content.ts"
import { type ChatCall, ProviderRegistry } from "../../../../src/sdk/Provider.ts"
import type { JsonSchema, UnifiedTool } from "../../../../src/sdk/Tool.ts"

const provider = Sandbox.make("sandbox")

const user = (...content: ReadonlyArray<Part | string>): Message => ({
  role: "user",
  content: content.map((part) => typeof part === "string" ? text(part) : part)
})

const makeCall = (model: string, prompt: Message | string, request: Partial<ChatCall["request"]> = {}): ChatCall => ({
  request: { model: `sandbox::${model}`, messages: [typeof prompt === "string" ? user(prompt) : prompt], ...request },
  model: { id: `sandbox::${model}`, provider: "sandbox", model, status: "active" },
  connectTimeout: 1000
})

const chat = (call: ChatCall) => provider.chat?.(call) ?? Effect.die("no chat")
const stream = (call: ChatCall) => provider.streamChat?.(call) ?? Stream.die("no streamChat")
const ask = (...args: Parameters<typeof makeCall>) => chat(makeCall(...args))
const say = (...args: Parameters<typeof makeCall>) => Effect.map(ask(...args), (response) => textOf(response.content))

/** Joins a stream to the answer that it stands for, by the contract of `ChatChunk`. */
const joinChunks = (chunks: ReadonlyArray<ChatChunk>) => {
  const choices: Array<{ content: Array<Part>; finishReason?: string; stopSequence?: string }> = []
  let usage: unknown
  for (const chunk of chunks) {
    const choice = choices[chunk.choice ?? 0] ??= { content: [] }
    if (chunk.usage !== undefined) usage = chunk.usage
    if (chunk.finishReason !== undefined) choice.finishReason = chunk.finishReason
    if (chunk.stopSequence !== undefined) choice.stopSequence = chunk.stopSequence
    for (const delta of chunk.delta) {
      assert.isUndefined(choice.finishReason, "a delta after the finish reason")
      const part = choice.content[delta.index]
      if (delta.type === "text" || delta.type === "reasoning") {
        const before = part?.type === delta.type ? part.text ?? "" : ""
        choice.content[delta.index] = { type: delta.type, text: before + (delta.text ?? "") }
      } else if (delta.type === "tool_call") {
        choice.content[delta.index] = part?.type === "tool_call"
          ? { ...part, arguments: part.arguments + (delta.arguments ?? "") }
          : { type: "tool_call", id: delta.id ?? "", name: delta.name ?? "", arguments: delta.arguments ?? "" }
      }
    }
  }
  return { choices, usage }
}

const split = (response: ChatResponse) => ({
  choices: [response, ...response.alternatives ?? []].map(({ content, finishReason, stopSequence }) =>
    stopSequence === undefined ? { content, finishReason } : { content, finishReason, stopSequence }
  ),
  usage: response.usage
})

const weather: UnifiedTool = {
  type: "unified",
  name: "get_weather",
  parameters: {
    type: "object",
    required: ["city", "days"],
    properties: { city: { type: "string" }, days: { type: "integer", minimum: 3 } }
  }
}
const clock: UnifiedTool = { type: "unified", name: "get_time" }
const callsOf = (response: ChatResponse) =>
  response.content.flatMap((part) => part.type === "tool_call" ? [[part.name, part.arguments]] : [])

/** A 1x1 PNG's first 8 bytes. */
const png: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: "iVBORw0KGgo=" } }

describe("models", () => {
  it.effect("discovery tells capabilities, limits and prices of every model, and all that write can be called or fail as named", () =>
    Effect.gen(function*() {
      const models = yield* provider.discover ?? Effect.succeed([])
      assert.includeMembers(models.map((model) => model.model), ["echo", "lorem", "tools", "json", "vision"])
      for (const model of models) {
        assert.isDefined(model.prices)
        assert.isDefined(model.capabilities)
        assert.isDefined(model.contextWindow)
        const capabilities = model.capabilities ?? []
        if (!capabilities.includes("text_input") || !capabilities.includes("text_output")) continue
        if (capabilities.includes("realtime_audio")) continue
        const fiber = yield* Effect.forkChild(Effect.exit(Stream.runCollect(stream(makeCall(model.model, "hi")))))
        yield* TestClock.adjust("10 seconds")
        if (model.model.startsWith("stall")) {
          yield* Fiber.interrupt(fiber)
          continue
        }
        const exit = yield* Fiber.join(fiber)
        assert.strictEqual(Exit.isFailure(exit), /^(fail|cut)/.test(model.model), model.model)
      }
    }))

  it.effect("echo repeats the last user text", () =>
    Effect.gen(function*() {
      const answer: Message = { role: "assistant", content: [text("a")] }
      assert.strictEqual(
        yield* say("echo", "", { messages: [user("first"), answer, user("one ", "two")] }),
        "one two"
      )
    }))

  it.effect("vision counts media with their types and bytes", () =>
    Effect.gen(function*() {
      const url: Part = { type: "document", source: { type: "url", url: "https://example.com/a.pdf" } }
      assert.strictEqual(
        yield* say("vision", user("look", png, url)),
        "I was given 2 media parts:\nimage: image/png, 8 bytes\ndocument: by URL, not fetched"
      )
      assert.strictEqual(yield* say("vision", "look"), "I was given 0 media parts.")
    }))

  it.effect("refuses names that it does not know, as an upstream would", () =>
    Effect.gen(function*() {
      for (
        const name of [
          "gpt-4o",
          "fail-200",
          "fail-",
          "slow-x",
          "tokens-1-at-0",
          "cut-3-at-4",
          "constructor-1",
          "echo-1",
          "tokens-999999999"
        ]
      ) {
        const error = yield* Effect.flip(ask(name, "hi"))
        assert.deepInclude(error, { kind: "caller", status: 404, code: "model_not_found", provider: "sandbox" }, name)
      }
    }))

  it.effect("refuses tools and blocks of another wire", () =>
    Effect.gen(function*() {
      const tools = [clock, { type: "opaque", wire: "openai", value: { type: "web_search" } } as const]
      assert.deepInclude(yield* Effect.flip(ask("echo", "hi", { tools })), { refused: true, field: "tools[1]" })
      const block: Part = { type: "opaque", wire: "anthropic", value: {} }
      assert.deepInclude(yield* Effect.flip(ask("echo", user("hi", block))), {
        refused: true,
        field: "messages[0].content[1]"
      })
    }))

  it.effect("finds a prompt too long that is", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(ask("echo", "a ".repeat(128_001)))).kind, "contextLength")
    }))
})

describe("failures", () => {
  it.effect("have the kind that an upstream with that status has", () =>
    Effect.gen(function*() {
      const kinds = {
        400: "caller",
        401: "credential",
        402: "quota",
        403: "credential",
        404: "caller",
        408: "transient",
        413: "caller",
        422: "caller",
        429: "quota",
        500: "transient",
        503: "transient",
        529: "transient"
      }
      for (const [status, kind] of Object.entries(kinds)) {
        for (const call of [makeCall(`fail-${status}`, "hi"), makeCall("echo", `hi [[fail ${status}]]`)]) {
          for (const error of [yield* Effect.flip(chat(call)), yield* Effect.flip(Stream.runDrain(stream(call)))]) {
            assert.strictEqual(error.kind, kind)
            assert.strictEqual(error.status, Number(status))
            assert.strictEqual(error.retryAfterMs, status === "429" ? 1000 : undefined)
          }
        }
      }
      assert.strictEqual((yield* Effect.flip(ask("fail-context_length", "hi"))).kind, "contextLength")
      assert.strictEqual((yield* Effect.flip(ask("echo", "[[fail content_policy]]"))).kind, "contentPolicy")
    }))

  it.effect("cut breaks after so many tokens, streamed and whole, and never finishes", () =>
    Effect.gen(function*() {
      for (
        const [call, tokens] of [[makeCall("cut-3", "hi"), 3], [makeCall("echo", "a b [[cut 9]]"), 2], [
          makeCall("cut-0", "hi"),
          0
        ]] as const
      ) {
        const seen: Array<ChatChunk> = []
        const error = yield* Effect.flip(
          stream(call).pipe(Stream.runForEach((chunk) => Effect.sync(() => seen.push(chunk))))
        )
        assert.strictEqual(error.kind, "transient")
        assert.lengthOf(seen, tokens)
        assert.isTrue(seen.every((chunk) => chunk.finishReason === undefined && chunk.usage === undefined))
        assert.deepStrictEqual(yield* Effect.flip(chat(call)), error)
      }
    }))

  it.effect("stall goes silent after so many tokens, and lets itself be interrupted", () =>
    Effect.gen(function*() {
      const seen: Array<ChatChunk> = []
      const fiber = yield* stream(makeCall("stall-3", "hi")).pipe(
        Stream.runForEach((chunk) => Effect.sync(() => seen.push(chunk))),
        Effect.forkChild
      )
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(seen, 3)
      assert.isUndefined(fiber.pollUnsafe())
      yield* Fiber.interrupt(fiber)
      const exit = fiber.pollUnsafe()
      assert.isTrue(exit !== undefined && Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))
})

describe("time", () => {
  /** When each chunk came, ms. */
  const times = Effect.fnUntraced(function*(call: ChatCall, total: number, step: number) {
    const seen: Array<number> = []
    let now = 0
    const fiber = yield* stream(call).pipe(
      Stream.runForEach((chunk) => Effect.sync(() => chunk.delta.length > 0 && seen.push(now))),
      Effect.forkChild
    )
    for (; now < total; now += step) yield* TestClock.adjust(now === 0 ? 0 : step)
    yield* TestClock.adjust(step)
    yield* Fiber.join(fiber)
    return seen
  })

  it.effect("slow waits before the first token only", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* times(makeCall("slow-500", "a b c"), 1000, 100), [500, 500, 500])
      assert.deepStrictEqual(yield* times(makeCall("echo", "a b [[slow 200]]"), 1000, 100), [200, 200])
    }))

  it.effect("tokens come at their rate", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* times(makeCall("tokens-4-at-10", "hi"), 1000, 50), [100, 200, 300, 400])
      assert.deepStrictEqual(yield* times(makeCall("echo", "[[tokens 3 at 5]] [[slow 100]]"), 1000, 100), [
        300,
        500,
        700
      ])
    }))

  it.effect("a whole answer takes as long as the stream", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(ask("tokens-4-at-10", "hi"))
      yield* TestClock.adjust(399)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Fiber.join(fiber)).usage?.outputTokens, 4)
    }))

  it.effect("other models do not wait at all", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* ask("tokens-10000", "hi")).usage?.outputTokens, 10_000)
      assert.lengthOf(yield* Stream.runCollect(stream(makeCall("tokens-10000", "hi"))), 10_002)
    }))
})

describe("directives", () => {
  it.effect("are taken out of the text", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* say("echo", "say [[finish stop]] this"), "say this")
      assert.strictEqual(yield* say("echo", "[[finish stop]] say this"), "say this")
      assert.strictEqual(yield* say("echo", "say this\n[[finish stop]]"), "say this")
      assert.strictEqual(yield* say("echo", "[[1, 2], [3, 4]] [[Link]] [[ x ]] "), "[[1, 2], [3, 4]] [[Link]] [[ x ]] ")
    }))

  it.effect("that are unknown or wrong are refused by name, with those that are known", () =>
    Effect.gen(function*() {
      const bad: ReadonlyArray<readonly [string, string]> = [
        ["[[explode]]", "no directive \"explode\""],
        ["[[slow]]", "\"slow\" cannot take \"\""],
        ["[[fail 200]]", "\"fail\" cannot take \"200\""],
        ["[[tokens 5 at]]", "\"tokens\" cannot take"],
        ["[[finish soon]]", "\"finish\" cannot take \"soon\""],
        ["[[cut 3 ", "not closed"]
      ]
      for (const [prompt, problem] of bad) {
        const error = yield* Effect.flip(ask("echo", `hi ${prompt}`))
        assert.strictEqual(error.kind, "caller")
        assert.include(error.message, problem)
        assert.include(error.message, "[[fail 429]]")
      }
    }))

  it.effect("tool calls the tool with these arguments, and after its answer no more", () =>
    Effect.gen(function*() {
      const prompt = user("now [[tool get_weather {\"city\":\"Paris\",\"x\":[[1]]}]] [[tool get_time]]")
      const response = yield* ask("echo", prompt, { tools: [weather] })
      assert.strictEqual(response.finishReason, "tool_calls")
      assert.deepStrictEqual(callsOf(response), [["get_weather", "{\"city\":\"Paris\",\"x\":[[1]]}"], [
        "get_time",
        "{}"
      ]])
      const result: Part = { type: "tool_result", toolCallId: "x", content: [text("18 degrees")] }
      const next = yield* ask("echo", prompt, {
        tools: [weather],
        messages: [prompt, { role: "assistant", content: response.content }, { role: "tool", content: [result] }]
      })
      assert.strictEqual(textOf(next.content), "The tool answered: 18 degrees")
      assert.strictEqual(next.finishReason, "stop")
    }))

  it.effect("json answers it as it is, even where it is broken", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* say("echo", "[[json {\"a\":[[1]]}]]"), "{\"a\":[[1]]}")
      assert.strictEqual(yield* say("echo", "[[json {\"a\":]]", { responseSchema: { type: "json_object" } }), "{\"a\":")
    }))

  it.effect("reason thinks first, and finish ends so", () =>
    Effect.gen(function*() {
      const response = yield* ask("echo", "hello [[reason let me see]] [[finish content_filter]]")
      assert.deepStrictEqual(response.content, [{ type: "reasoning", text: "let me see" }, text("hello")])
      assert.strictEqual(response.finishReason, "content_filter")
      assert.deepStrictEqual(response.usage, { inputTokens: 7, outputTokens: 4, reasoningTokens: 3 })
    }))
})

describe("tools", () => {
  it.effect("are called where the choice demands it, with arguments that fit", () =>
    Effect.gen(function*() {
      const tools = [weather, clock]
      const fitting = "{\"city\":\"text\",\"days\":3}"
      const required = yield* ask("echo", "hi", { tools, toolChoice: { type: "required" } })
      assert.deepStrictEqual(callsOf(required), [["get_weather", fitting]])
      assert.strictEqual(required.finishReason, "tool_calls")
      const named = yield* ask("echo", "hi", { tools, toolChoice: { type: "tool", name: "get_time" } })
      assert.deepStrictEqual(callsOf(named), [["get_time", "{}"]])
      const allowed = yield* ask("echo", "hi", {
        tools,
        toolChoice: { type: "allowed", mode: "required", names: ["get_time"] }
      })
      assert.deepStrictEqual(callsOf(allowed), [["get_time", "{}"]])
      assert.strictEqual(yield* say("echo", "hi", { tools }), "hi")
      assert.strictEqual(
        (yield* Effect.flip(ask("echo", "hi", { toolChoice: { type: "tool", name: "x" } }))).field,
        "tool_choice"
      )
    }))

  it.effect("the model tools calls all of them, or one where parallel calls are off, or none where it must not", () =>
    Effect.gen(function*() {
      const tools = [weather, clock]
      assert.lengthOf(callsOf(yield* ask("tools", "hi", { tools })), 2)
      assert.lengthOf(callsOf(yield* ask("tools", "hi", { tools, parallelToolCalls: false })), 1)
      assert.strictEqual(yield* say("tools", "hi", { tools, toolChoice: { type: "none" } }), "hi")
    }))
})

describe("limits", () => {
  it.effect("maxOutputTokens cuts the answer, thinking included", () =>
    Effect.gen(function*() {
      const response = yield* ask("echo", "one two three [[reason a b]]", { maxOutputTokens: 3 })
      assert.deepStrictEqual(response.content, [{ type: "reasoning", text: "a b" }, text("one ")])
      assert.strictEqual(response.finishReason, "length")
      assert.strictEqual(response.usage?.outputTokens, 3)
      assert.strictEqual((yield* ask("echo", "one two", { maxOutputTokens: 2 })).finishReason, "stop")
    }))

  it.effect("stop sequences end the answer before the first of them", () =>
    Effect.gen(function*() {
      const response = yield* ask("echo", "one two three", { stop: ["three", "two", ""] })
      assert.strictEqual(textOf(response.content), "one ")
      assert.strictEqual(response.finishReason, "stop")
      assert.strictEqual(response.stopSequence, "two")
    }))

  it.effect("n gives further choices", () =>
    Effect.gen(function*() {
      const response = yield* ask("echo", "one two", { n: 3 })
      assert.lengthOf(response.alternatives ?? [], 2)
      assert.strictEqual(response.usage?.outputTokens, 6)
    }))
})

describe("the same call", () => {
  const Prompt = Schema.Struct({
    model: Schema.Literals(["echo", "lorem", "tools", "json", "vision", "tokens-70"]),
    prompt: Schema.String,
    directive: Schema.Literals([
      "",
      "[[reason deep thought]]",
      "[[tool t {\"a\": 1}]]",
      "[[json [1, 2]]]",
      "[[tokens 200]]",
      "[[finish other]]"
    ]),
    n: Schema.Literals([1, 2, 3]),
    maxOutputTokens: Schema.optionalKey(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 20 }))),
    stop: Schema.Array(Schema.String).check(Schema.isMaxLength(2)),
    tools: Schema.Boolean,
    json: Schema.Boolean
  })
  it.effect.prop(
    "gives the same content, finish and usage whole and streamed, and the same every time",
    [Prompt],
    ([input]) =>
      Effect.gen(function*() {
        const call = makeCall(input.model, user(`${input.prompt.replaceAll("[[", "")} ${input.directive}`, png), {
          n: input.n,
          stop: input.stop,
          ...(input.maxOutputTokens === undefined ? {} : { maxOutputTokens: input.maxOutputTokens }),
          ...(input.tools ? { tools: [weather, clock] } : {}),
          ...(input.json ? { responseSchema: { type: "json_object" } } : {})
        })
        const whole = yield* chat(call)
        const chunks = yield* Stream.runCollect(stream({ ...call, request: { ...call.request, stream: true } }))
        assert.deepStrictEqual<unknown>(joinChunks(chunks), split(whole))
        assert.isTrue(chunks.every((chunk) => chunk.id === whole.id))
        assert.match(whole.id, /^sandbox-[0-9a-f]{16}$/)
        assert.lengthOf(chunks.filter((chunk) => chunk.finishReason !== undefined), input.n)
        assert.deepStrictEqual(chunks.filter((chunk) => chunk.usage !== undefined), chunks.slice(-1))
        assert.deepStrictEqual(yield* chat(call), whole)
      })
  )

  it.effect("has an id of its own for every call that differs", () =>
    Effect.gen(function*() {
      const ids = yield* Effect.forEach(
        [makeCall("echo", "a"), makeCall("echo", "b"), makeCall("lorem", "a"), makeCall("echo", "a", { seed: 1 })],
        (call) => Effect.map(chat(call), (response) => response.id)
      )
      assert.strictEqual(new Set(ids).size, 4)
    }))
})

describe("structured output", () => {
  const schemas: ReadonlyArray<JsonSchema> = [
    {
      type: "object",
      required: ["a", "b", "c", "d"],
      additionalProperties: false,
      properties: {
        a: { type: "string", minLength: 6, maxLength: 8 },
        b: {
          type: "array",
          minItems: 3,
          uniqueItems: true,
          items: { type: "integer", exclusiveMinimum: 4, multipleOf: 3 }
        },
        c: { enum: ["x", "y"] },
        d: { const: { e: [1] } },
        optional: { type: "string" }
      }
    },
    {
      type: "array",
      minItems: 3,
      prefixItems: [{ type: "boolean" }, { type: ["null", "number"] }],
      items: { format: "email" }
    },
    { anyOf: [{ type: "number", maximum: -2.5 }, { type: "string" }] },
    {
      $ref: "#/$defs/node",
      $defs: {
        node: {
          type: "object",
          required: ["value", "next"],
          properties: {
            value: { type: "string", format: "date-time" },
            next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] }
          }
        }
      }
    },
    {
      allOf: [{ type: "object", required: ["a"], properties: { a: { type: "boolean" } } }, {
        required: ["b"],
        properties: { b: { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 1 } }
      }]
    },
    { type: "object", minProperties: 1, properties: { a: { type: "string", format: "uuid" } } },
    {}
  ]
  it.effect.each(schemas)("any model answers JSON that fits %j", (schema) =>
    Effect.gen(function*() {
      for (const model of ["echo", "json", "lorem"]) {
        const responseSchema = { type: "json_schema", schema } as const
        const response = yield* ask(model, "hi", { responseSchema })
        assert.strictEqual(checkResponse(response, responseSchema)._tag, "Success", textOf(response.content))
      }
    }))

  it.effect("stays small for a schema that has no end", () =>
    Effect.gen(function*() {
      const endless: JsonSchema = {
        type: "object",
        required: ["a", "b"],
        properties: { a: { $ref: "#" }, b: { $ref: "#" } }
      }
      const answer = yield* say("json", "hi", { responseSchema: { type: "json_schema", schema: endless } })
      assert.isBelow(answer.length, 100_000)
      const loop: JsonSchema = { $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/b" }, b: { $ref: "#/$defs/a" } } }
      assert.isString(yield* say("json", "hi", { responseSchema: { type: "json_schema", schema: loop } }))
    }))
})

describe("layer", () => {
  it.effect("registers the sandbox under its slug for as long as it lives", () =>
    Effect.gen(function*() {
      const registry = Context.get(yield* Layer.build(ProviderRegistry.layer), ProviderRegistry)
      const slugs = Effect.sync(() => registry.all().map((provider) => provider.slug))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Layer.build(Layer.mergeAll(Sandbox.layer(), Sandbox.layer({ slug: "other" }))).pipe(
          Effect.provideService(ProviderRegistry, registry)
        )
        assert.sameMembers([...(yield* slugs)], ["sandbox", "other"])
        const again = yield* Layer.build(Sandbox.layer()).pipe(
          Effect.provideService(ProviderRegistry, registry),
          Effect.exit
        )
        assert.isTrue(Exit.isFailure(again) && Option.isSome(Cause.findErrorOption(again.cause)))
      }))
      assert.deepStrictEqual(yield* slugs, [])
    }))
})
