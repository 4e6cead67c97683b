import { assert, describe, it } from "@effect/vitest"
import type { ChatRequest, Message } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import type { ToolChoice } from "../../../src/sdk/Tool.ts"
import { ollamaChat } from "../../../src/wire/ollama/OllamaChat.ts"
import { isJson } from "../../../src/wire/Json.ts"
import { asking, callOf, failure, success } from "./answers.ts"

const encode = (request: ChatRequest) => success(ollamaChat.encodeRequest(callOf(request), false))
const refusal = (request: ChatRequest) => failure(ollamaChat.encodeRequest(callOf(request), false))
const decode = (body: unknown) => success(ollamaChat.decodeRequest(body))

const talk = (...messages: readonly [Message, ...Array<Message>]): ChatRequest => ({ model: "llama3", messages })
const user = (...content: ReadonlyArray<Part>): Message => ({ role: "user", content })
const assistant = (...content: ReadonlyArray<Part>): Message => ({ role: "assistant", content })
const text = (value: string): Part => ({ type: "text", text: value })
const png = "iVBORw0KGgoAAAANSUhEUg=="
const image: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
const call = (id: string, name: string, args: string): Part => ({ type: "tool_call", id, name, arguments: args })

describe("encodeRequest", () => {
  it("always says whether to stream, because Ollama streams by default", () => {
    for (const stream of [true, false]) {
      assert.deepStrictEqual(success(ollamaChat.encodeRequest(callOf(asking("hi")), stream)).body, {
        model: "llama3",
        messages: [{ role: "user", content: "hi" }],
        stream
      })
    }
  })

  it("calls the model by the provider's name for it", () => {
    const request = callOf(asking("hi", { model: "ollama::llama3.2:3b" }), { model: "llama3.2:3b" })
    assert.strictEqual(success(ollamaChat.encodeRequest(request, false)).body["model"], "llama3.2:3b")
  })

  describe("messages", () => {
    it("joins text and text documents, and puts images beside them as bare base64", () => {
      const { body } = encode(talk(
        { role: "developer", content: [text("be brief")] },
        user(text("look"), image, { type: "document", source: { type: "text", text: "a page" } }),
        assistant(text("one, "), text("two")),
        user({ type: "document", source: { type: "base64", mediaType: "text/plain", data: "w6lsYW4=" } })
      ))
      assert.deepStrictEqual(body["messages"], [
        { role: "system", content: "be brief" },
        { role: "user", content: "look\na page", images: [png] },
        { role: "assistant", content: "one, two" },
        { role: "user", content: "élan" }
      ])
    })

    it("sends tool calls with objects, and results by the tool's name, images included", () => {
      const { body, dropped } = encode(talk(
        user(text("go")),
        assistant(
          { type: "reasoning", text: "think", wire: "ollama" },
          call("a", "add", "{\"x\":1}"),
          call("b", "now", "")
        ),
        {
          role: "tool",
          content: [{ type: "tool_result", toolCallId: "b", content: [{ type: "text", text: "noon" }] }]
        },
        {
          role: "user",
          content: [
            {
              type: "tool_result",
              toolCallId: "a",
              isError: true,
              content: [
                { type: "text", text: "broken" },
                { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
              ]
            },
            text("and?")
          ]
        }
      ))
      assert.deepStrictEqual(body["messages"], [
        { role: "user", content: "go" },
        {
          role: "assistant",
          content: "",
          thinking: "think",
          tool_calls: [
            { id: "a", function: { name: "add", arguments: { x: 1 } } },
            { id: "b", function: { name: "now", arguments: {} } }
          ]
        },
        { role: "tool", content: "noon", tool_name: "now", tool_call_id: "b" },
        { role: "tool", content: "broken", images: [png], tool_name: "add", tool_call_id: "a" },
        { role: "user", content: "and?" }
      ])
      assert.deepStrictEqual(dropped, ["messages[].content[].is_error"])
    })

    it("refuses what would lose content, each with its path", () => {
      const url = { type: "url", url: "https://example.com/cat.png" } as const
      const error = refusal(talk(
        user(text("hi"), { type: "image", source: url }),
        user(
          { type: "document", source: { type: "base64", mediaType: "application/pdf", data: "JVBERi0=" } },
          { type: "audio", source: url },
          { type: "video", source: url },
          { type: "opaque", wire: "anthropic", value: { type: "server_tool_use" } }
        ),
        assistant(call("a", "add", "{\"x\":"), call("b", "add", "[1]")),
        { role: "tool", content: [{ type: "tool_result", toolCallId: "a", content: [{ type: "image", source: url }] }] }
      ))
      assert.strictEqual(error.field, "messages[0].content[1].source")
      assert.include(error.message, "takes no URLs")
      assert.deepStrictEqual(error.issues?.map((issue) => issue.path), [
        "messages[0].content[1].source",
        "messages[1].content[0]",
        "messages[1].content[1]",
        "messages[1].content[2]",
        "messages[1].content[3]",
        "messages[2].content[0].arguments",
        "messages[2].content[1].arguments",
        "messages[3].content[0].content[0].source"
      ])
    })

    it("bounds what it says of a request that is wrong in many places", () => {
      const broken = Array.from({ length: 500 }, () => call("a", "add", "{"))
      const error = refusal(talk(assistant(...broken)))
      assert.strictEqual(error.issues?.length, 16)
      assert.include(error.message, "(and 499 more)")
    })
  })

  describe("tools", () => {
    const tools = [
      { type: "unified", name: "add", description: "adds", parameters: { type: "object", $defs: { n: {} } } },
      { type: "unified", name: "now" }
    ] as const

    it("hands schemas on unchanged and completes one that is absent", () => {
      assert.deepStrictEqual(encode(asking("hi", { tools })).body["tools"], [
        {
          type: "function",
          function: { name: "add", description: "adds", parameters: { type: "object", $defs: { n: {} } } }
        },
        { type: "function", function: { name: "now", parameters: { type: "object", properties: {} } } }
      ])
    })

    it("does what it can of tool_choice by leaving tools out, and reports what it cannot", () => {
      const names = (toolChoice: ToolChoice) => {
        const { body, dropped } = encode(asking("hi", { tools, toolChoice }))
        return [JSON.stringify(body["tools"] ?? []).match(/"name":"\w+"/g)?.length ?? 0, dropped]
      }
      assert.deepStrictEqual(names({ type: "auto" }), [2, []])
      assert.deepStrictEqual(names({ type: "none" }), [0, []])
      assert.deepStrictEqual(names({ type: "required" }), [2, ["tool_choice"]])
      assert.deepStrictEqual(names({ type: "tool", name: "add" }), [2, ["tool_choice"]])
      assert.deepStrictEqual(
        names({ type: "allowed", mode: "auto", names: ["now"] }),
        [1, []]
      )
      assert.deepStrictEqual(
        names({ type: "allowed", mode: "required", names: ["now"] }),
        [1, ["tool_choice"]]
      )
    })

    it("refuses a tool of another wire", () => {
      const error = refusal(asking("hi", { tools: [...tools, { type: "opaque", wire: "openai", value: {} }] }))
      assert.strictEqual(error.field, "tools[2]")
    })
  })

  describe("parameters", () => {
    it("maps sampling to options, and num_predict only where the caller set a limit", () => {
      const { body, dropped } = encode(asking("hi", {
        temperature: 0,
        topP: 0.5,
        topK: 40,
        minP: 0.1,
        seed: 7,
        stop: ["END"],
        repeatPenalty: 1.1,
        presencePenalty: 0.2,
        frequencyPenalty: 0.3,
        maxOutputTokens: 100,
        logprobs: true,
        topLogprobs: 3
      }))
      assert.deepStrictEqual(body["options"], {
        temperature: 0,
        top_p: 0.5,
        top_k: 40,
        min_p: 0.1,
        seed: 7,
        stop: ["END"],
        repeat_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: 0.3,
        num_predict: 100
      })
      assert.isTrue(body["logprobs"])
      assert.strictEqual(body["top_logprobs"], 3)
      assert.deepStrictEqual(dropped, [])
      assert.notProperty(encode(asking("hi")).body, "options")
    })

    it("keeps the limit that budgets count on, whatever Ollama's own options say", () => {
      const lifted = asking("hi", { maxOutputTokens: 100, extensions: { ollama: { options: { num_predict: -1 } } } })
      assert.deepStrictEqual(encode(lifted).body["options"], { num_predict: 100 })
    })

    it("asks for a form by format", () => {
      assert.strictEqual(encode(asking("hi", { responseSchema: { type: "json_object" } })).body["format"], "json")
      const schema = { type: "object", properties: { a: { type: "string" } } }
      const request = asking("hi", { responseSchema: { type: "json_schema", name: "x", schema, strict: true } })
      assert.deepStrictEqual(encode(request).body["format"], schema)
      assert.deepStrictEqual(encode(request).dropped, [])
    })

    it("asks for thinking only where the caller did", () => {
      const think = (reasoning: ChatRequest["reasoning"]) => {
        const { body, dropped } = encode(asking("hi", reasoning === undefined ? {} : { reasoning }))
        return [body["think"], ...dropped]
      }
      assert.deepStrictEqual(think(undefined), [undefined])
      assert.deepStrictEqual(think({}), [undefined])
      assert.deepStrictEqual(think({ enabled: true }), [true])
      assert.deepStrictEqual(think({ enabled: false, effort: "high" }), [false])
      assert.deepStrictEqual(think({ effort: "none" }), [false])
      assert.deepStrictEqual(think({ effort: "medium" }), ["medium"])
      assert.deepStrictEqual(think({ effort: "max" }), ["max"])
      assert.deepStrictEqual(think({ effort: "minimal" }), ["low", "reasoning.effort"])
      assert.deepStrictEqual(think({ effort: "xhigh" }), ["high", "reasoning.effort"])
      assert.deepStrictEqual(think({ budgetTokens: 2000 }), [true, "reasoning.budget_tokens"])
      assert.deepStrictEqual(think({ budgetTokens: 0 }), [false])
    })

    it("reports each parameter without a form, once", () => {
      const cacheControl = { type: "ephemeral" } as const
      const { dropped } = encode({
        model: "llama3",
        messages: [
          {
            role: "user",
            name: "ann",
            content: [{ type: "text", text: "a", cacheControl }, { ...image, detail: "low" }]
          },
          { role: "user", content: [{ type: "text", text: "b", cacheControl }] },
          assistant({ type: "reasoning", text: "t", signature: "s", wire: "anthropic" })
        ],
        tools: [{ type: "unified", name: "add", strict: true, cacheControl }],
        parallelToolCalls: false,
        logitBias: { 50256: -100 },
        user: "u",
        metadata: { a: "b" },
        serviceTier: "flex"
      })
      assert.deepStrictEqual([...dropped].sort(), [
        "logit_bias",
        "messages[].content[].cache_control",
        "messages[].content[].detail",
        "messages[].content[].signature",
        "messages[].name",
        "metadata",
        "parallel_tool_calls",
        "service_tier",
        "tools[].cache_control",
        "tools[].strict",
        "user"
      ])
    })

    it("refuses several answers", () => {
      assert.strictEqual(refusal(asking("hi", { n: 2 })).field, "n")
      assert.deepStrictEqual(encode(asking("hi", { n: 1 })).dropped, [])
    })

    it("merges the caller's Ollama fields, options key by key, but not what decides the call", () => {
      const ollama = {
        keep_alive: "5m",
        truncate: false,
        model: "other",
        messages: [],
        stream: true,
        options: { temperature: 1, num_keep: 4 }
      }
      const { body, dropped } = encode(
        asking("hi", { temperature: 0, seed: 1, extensions: { ollama, openai: { x: 1 } } })
      )
      assert.deepStrictEqual(body, {
        model: "llama3",
        messages: [{ role: "user", content: "hi" }],
        stream: false,
        options: { temperature: 1, seed: 1, num_keep: 4 },
        keep_alive: "5m",
        truncate: false
      })
      assert.deepStrictEqual([...dropped].sort(), [
        "extensions.ollama.messages",
        "extensions.ollama.model",
        "extensions.ollama.stream",
        "x"
      ])
    })

    it("keeps a caller's __proto__ a plain field", () => {
      const ollama: Record<string, unknown> = JSON.parse(
        "{\"__proto__\":{\"polluted\":1},\"options\":{\"__proto__\":{\"x\":1}}}"
      )
      const { body } = encode(asking("hi", { extensions: { ollama } }))
      assert.strictEqual(Object.getPrototypeOf(body), Object.prototype)
      assert.include(JSON.stringify(body), "\"__proto__\":{\"polluted\":1}")
      assert.notProperty({}, "polluted")
    })
  })

  describe("num_ctx", () => {
    const contextOf = (request: ChatRequest, contextWindow?: number): unknown => {
      const model = contextWindow === undefined ? {} : { contextWindow }
      const { body } = success(ollamaChat.encodeRequest(callOf(request, model), false))
      return isJson(body["options"]) ? body["options"]["num_ctx"] : undefined
    }
    const long = "x".repeat(40_000)

    it("stays Ollama's own for what fits into 4096 tokens", () => {
      assert.isUndefined(contextOf(asking("hi")))
    })

    it("is the power of two that prompt and answer fit into", () => {
      assert.strictEqual(contextOf(asking(long)), 16_384)
      assert.strictEqual(contextOf(asking(long, { maxOutputTokens: 16_000 })), 32_768)
    })

    it("is no larger than the model's window", () => {
      assert.strictEqual(contextOf(asking(long), 12_000), 12_000)
      assert.isUndefined(contextOf(asking(long), 2048))
    })

    it("counts tools, images and tool results", () => {
      const parameters = { type: "object", description: long }
      assert.strictEqual(contextOf(asking("hi", { tools: [{ type: "unified", name: "a", parameters }] })), 16_384)
      assert.strictEqual(contextOf(talk(user(image, image, image))), 8192)
      const result: Part = { type: "tool_result", toolCallId: "a", content: [{ type: "text", text: long }] }
      assert.strictEqual(contextOf(talk({ role: "tool", content: [result] })), 16_384)
    })

    it("is the caller's where the caller gives one", () => {
      assert.strictEqual(contextOf(asking(long, { extensions: { ollama: { options: { num_ctx: 512 } } } })), 512)
    })
  })
})

describe("decodeRequest", () => {
  it("reads a body with everything in it, and streams by default", () => {
    const request = decode({
      model: "qwen3",
      messages: [
        { role: "System", content: "be brief" },
        { role: "user", content: "look", images: [png], mood: "calm" },
        {
          role: "assistant",
          content: "",
          thinking: "hm",
          tool_calls: [{ function: { index: 0, name: "add", arguments: { x: 1 } } }]
        },
        { role: "tool", content: "2", tool_name: "add" }
      ],
      tools: [{ type: "function", function: { name: "add", parameters: { type: "object" }, returns: "number" } }],
      format: { type: "object" },
      think: "high",
      keep_alive: 0,
      options: { temperature: 0.5, num_predict: -1, num_ctx: 2048, top_k: 0, seed: 3, stop: ["a"] }
    })
    assert.deepStrictEqual(request, {
      model: "qwen3",
      messages: [
        { role: "system", content: [{ type: "text", text: "be brief" }] },
        {
          role: "user",
          content: [{ type: "text", text: "look" }, image],
          extensions: { ollama: { mood: "calm" } }
        },
        {
          role: "assistant",
          content: [
            { type: "reasoning", text: "hm", wire: "ollama" },
            { type: "tool_call", id: "call_2_0", name: "add", arguments: "{\"x\":1}" }
          ]
        },
        {
          role: "tool",
          content: [{ type: "tool_result", toolCallId: "call_2_0", content: [{ type: "text", text: "2" }] }]
        }
      ],
      tools: [
        {
          type: "unified",
          name: "add",
          parameters: { type: "object" },
          extensions: { ollama: { function: { returns: "number" } } }
        }
      ],
      responseSchema: { type: "json_schema", schema: { type: "object" } },
      stream: true,
      temperature: 0.5,
      seed: 3,
      stop: ["a"],
      reasoning: { effort: "high" },
      extensions: { ollama: { keep_alive: 0, options: { num_predict: -1, num_ctx: 2048, top_k: 0 } } }
    })
  })

  it("names every field that is wrong", () => {
    const error = failure(ollamaChat.decodeRequest({
      messages: [
        { role: "robot", content: "hi" },
        { role: "user", content: [{ type: "text", text: "hi" }], images: ["data:image/png;base64,AAAA", 3] },
        { role: "assistant", tool_calls: [{ function: { name: "f", arguments: "{}" } }, { function: {} }, 1] },
        "hi"
      ],
      tools: [{ function: { name: "" } }, { type: "function" }],
      stream: "yes",
      format: "yaml",
      think: "a lot",
      top_logprobs: 1.5,
      options: { temperature: "hot", stop: "END" }
    }))
    assert.deepStrictEqual(error.issues?.map((issue) => issue.path), [
      "model",
      "format",
      "think",
      "stream",
      "top_logprobs",
      "options.temperature",
      "options.stop",
      "messages[0].role",
      "messages[1].content",
      "messages[1].images[0]",
      "messages[1].images[1]",
      "messages[2].tool_calls[0].function.arguments",
      "messages[2].tool_calls[1].function.name",
      "messages[2].tool_calls[2]",
      "messages[3]",
      "tools[0].function.name"
    ])
    assert.include(error.message, "(and 16 more)")
  })

  it("refuses what is no chat: no object, no messages", () => {
    assert.strictEqual(failure(ollamaChat.decodeRequest([])).issues?.[0]?.path, "")
    for (const body of [{ model: "m" }, { model: "m", messages: [] }]) {
      assert.strictEqual(failure(ollamaChat.decodeRequest(body)).field, "messages")
    }
    assert.strictEqual(failure(ollamaChat.decodeRequest({ model: "m", messages: {} })).issues?.length, 1)
  })

  it("tells an image's type by its first bytes", () => {
    const base64 = (...bytes: ReadonlyArray<number>) =>
      Buffer.from([...bytes, 0, 0, 0, 0, 0, 0, 0, 0]).toString("base64")
    const types = {
      "image/png": base64(0x89, 0x50, 0x4e, 0x47),
      "image/jpeg": base64(0xff, 0xd8, 0xff, 0xe0),
      "image/gif": base64(0x47, 0x49, 0x46, 0x38, 0x39, 0x61),
      "image/webp": base64(0x52, 0x49, 0x46, 0x46, 1, 2, 3, 4, 0x57, 0x45, 0x42, 0x50),
      "application/octet-stream": base64(0x42, 0x4d, 0, 0)
    }
    const request = decode({ model: "m", messages: [{ role: "user", images: Object.values(types) }] })
    const read = request.messages[0].content.map((part) =>
      part.type === "image" && part.source.type === "base64" ? part.source.mediaType : undefined
    )
    assert.deepStrictEqual(read, Object.keys(types))
  })

  describe("tool results", () => {
    const ids = (...answers: ReadonlyArray<object>): ReadonlyArray<string> => {
      const calls = ["add", "now", "add"].map((name) => ({ function: { name, arguments: {} } }))
      const request = decode({
        model: "m",
        messages: [
          { role: "assistant", tool_calls: calls },
          ...answers.map((answer) => Object.assign({ role: "tool", content: "1" }, answer))
        ]
      })
      return request.messages.flatMap((message) =>
        message.content.flatMap((part) => part.type === "tool_result" ? [part.toolCallId] : [])
      )
    }

    it("answer the oldest open call of their name", () => {
      assert.deepStrictEqual(
        ids({ tool_name: "add" }, { tool_name: "add" }, { tool_name: "now" }),
        ["call_0_0", "call_0_2", "call_0_1"]
      )
    })

    it("answer in order where they name nothing, and by id where they have one", () => {
      assert.deepStrictEqual(ids({}, { tool_call_id: "call_0_1" }, {}), ["call_0_0", "call_0_1", "call_0_2"])
    })

    it("answer in order where their calls came without the ids that they have", () => {
      assert.deepStrictEqual(ids({ tool_call_id: "x" }, { tool_call_id: "y" }), ["call_0_0", "call_0_1"])
    })

    it("keep a tool's name that is not their call's", () => {
      const call = { id: "c", function: { name: "add", arguments: {} } }
      const messages = [
        { role: "assistant", content: "", tool_calls: [call] },
        { role: "tool", content: "1", tool_name: "lost", tool_call_id: "c" }
      ]
      const request = decode({ model: "m", messages, stream: true })
      assert.deepStrictEqual(success(ollamaChat.encodeRequest(callOf(request), true)).body["messages"], messages)
    })

    it("are refused where there is no call that they could answer", () => {
      const call = { id: "c", function: { name: "add", arguments: {} } }
      const fieldOf = (...messages: ReadonlyArray<object>) =>
        failure(ollamaChat.decodeRequest({ model: "m", messages })).field
      const asked = { role: "assistant", tool_calls: [call] }
      assert.strictEqual(fieldOf({ role: "tool", content: "1" }), "messages[0]")
      assert.strictEqual(fieldOf(asked, { role: "tool", tool_name: "now" }), "messages[1]")
      assert.strictEqual(fieldOf(asked, { role: "tool", tool_call_id: "d" }), "messages[1].tool_call_id")
      assert.strictEqual(fieldOf(asked, { role: "tool" }, { role: "tool" }), "messages[2]")
    })
  })
})
