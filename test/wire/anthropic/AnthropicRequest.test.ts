import { assert, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import type { Message } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import type { ResolvedTool } from "../../../src/sdk/Tool.ts"
import { anthropicMessages } from "../../../src/wire/anthropic/AnthropicMessages.ts"
import { traitsOf } from "../../../src/wire/anthropic/ModelTraits.ts"
import {
  adaptive,
  assistant,
  at,
  callOf,
  early,
  encode,
  failure,
  list,
  manual,
  object,
  refusedField,
  success,
  user
} from "./Fixtures.ts"

const text = (value: string): Part => ({ type: "text", text: value })
const say = (role: Message["role"], ...content: ReadonlyArray<Part>): Message => ({ role, content })
const weather = {
  type: "unified",
  name: "weather",
  description: "Tells the weather",
  parameters: { type: "object", properties: { city: { type: "string", minLength: 1 } }, additionalProperties: false }
} as const
const ping = { type: "unified", name: "ping" } as const
const toolCall = (id: string, args: string): Part => ({ type: "tool_call", id, name: "weather", arguments: args })
const toolResult = (id: string, ...content: ReadonlyArray<{ type: "text"; text: string }>): Part => ({
  type: "tool_result",
  toolCallId: id,
  content
})
const conversation = (first: Message, ...rest: ReadonlyArray<Message>) => ({ messages: [first, ...rest] as const })

describe("encodeRequest: system and developer messages", () => {
  it("hoists them in order, wherever they stand, with their cache breakpoints", () => {
    const { body } = encode(conversation(
      say("system", { type: "text", text: "One", cacheControl: { type: "ephemeral", ttl: "1h" } }),
      user("Hi"),
      say("developer", text("Two"))
    ))
    assert.deepStrictEqual(body["system"], [
      { type: "text", text: "One", cache_control: { type: "ephemeral", ttl: "1h" } },
      { type: "text", text: "Two" }
    ])
    assert.deepStrictEqual(body["messages"], [user("Hi")])
  })
  it("refuses a part other than text in them, by its place", () => {
    const image: Part = { type: "image", source: { type: "url", url: "https://a.b/c.png" } }
    assert.strictEqual(
      refusedField(conversation(say("system", text("a"), image), user("Hi"))),
      "messages[0].content[1]"
    )
  })
})

describe("encodeRequest: turns", () => {
  it("merges neighbours of one role", () => {
    const { body } = encode(conversation(user("a"), user("b"), assistant("c"), assistant("d"), user("e")))
    assert.deepStrictEqual(body["messages"], [
      { role: "user", content: [text("a"), text("b")] },
      { role: "assistant", content: [text("c"), text("d")] },
      user("e")
    ])
  })
  it("skips blank text blocks, and the messages that hold nothing else", () => {
    const { body } = encode(conversation(user("a"), assistant(""), say("user", text(" \n"), text("b"))))
    assert.deepStrictEqual(body["messages"], [{ role: "user", content: [text("a"), text("b")] }])
  })
  it("trims the white space at the end of a final assistant prefill, and only there", () => {
    const { body } = encode(conversation(user("a "), assistant("b "), user("c"), assistant("{ \n")))
    assert.deepStrictEqual(body["messages"], [user("a "), assistant("b "), user("c"), assistant("{")])
  })
  it("sends a conversation that the assistant begins", () => {
    const { body } = encode(conversation(assistant("Welcome"), user("Hi")))
    assert.deepStrictEqual(body["messages"], [assistant("Welcome"), user("Hi")])
  })
  it("refuses a conversation without any content", () => {
    assert.strictEqual(refusedField(conversation(say("system", text("x")), user(""))), "messages")
  })
  it("keeps a system message of an Anthropic conversation in its place", () => {
    const { body } = encode(conversation(user("a"), {
      role: "system",
      content: [text("note")],
      extensions: { anthropic: { mid_conversation: true } }
    }))
    assert.deepStrictEqual(body["messages"], [user("a"), { role: "system", content: [text("note")] }])
    assert.isUndefined(body["system"])
  })
  it("reports participants' names, which have no form", () => {
    assert.deepStrictEqual(encode(conversation({ ...user("a"), name: "ann" })).dropped, ["messages[].name"])
  })
})

describe("encodeRequest: max_tokens", () => {
  it("is the request's, else the catalogue's, else 8192", () => {
    assert.strictEqual(encode({ maxOutputTokens: 5 }, manual, { maxOutputTokens: 64_000 }).body["max_tokens"], 5)
    assert.strictEqual(encode({}, manual, { maxOutputTokens: 64_000 }).body["max_tokens"], 64_000)
    assert.strictEqual(encode().body["max_tokens"], 8192)
  })
})

describe("encodeRequest: tools", () => {
  it("hands schemas on unchanged and gives a tool without parameters an empty object", () => {
    const { body } = encode({ tools: [weather, { ...ping, strict: true, cacheControl: { type: "ephemeral" } }] })
    assert.deepStrictEqual(body["tools"], [
      { name: "weather", description: "Tells the weather", input_schema: weather.parameters },
      {
        name: "ping",
        input_schema: { type: "object", properties: {} },
        strict: true,
        cache_control: { type: "ephemeral" }
      }
    ])
  })
  it("passes this wire's own tools and refuses another wire's by name", () => {
    const search = { type: "web_search_20250305", name: "web_search" }
    const foreign: ResolvedTool = { type: "opaque", wire: "openai", value: { type: "custom", name: "sql" } }
    assert.deepStrictEqual(encode({ tools: [{ type: "opaque", wire: "anthropic", value: search }] }).body["tools"], [
      search
    ])
    const error = failure(anthropicMessages.encodeRequest(callOf({ tools: [weather, foreign] }), false))
    assert.strictEqual(error.field, "tools[1]")
    assert.include(error.message, "sql")
    assert.include(error.message, "custom")
  })
})

describe("encodeRequest: tool_choice", () => {
  const choice = (fields: Parameters<typeof encode>[0]) =>
    encode({ tools: [weather, ping], ...fields }).body["tool_choice"]
  it("maps every choice", () => {
    assert.isUndefined(choice({}))
    assert.deepStrictEqual(choice({ toolChoice: { type: "auto" } }), { type: "auto" })
    assert.deepStrictEqual(choice({ toolChoice: { type: "required" } }), { type: "any" })
    assert.deepStrictEqual(choice({ toolChoice: { type: "tool", name: "ping" } }), { type: "tool", name: "ping" })
  })
  it("keeps the tools where none may be called", () => {
    const { body } = encode({ tools: [weather], toolChoice: { type: "none" } })
    assert.deepStrictEqual(body["tool_choice"], { type: "none" })
    assert.lengthOf(list(body["tools"]), 1)
  })
  it("filters the tools for an allowed list", () => {
    const { body } = encode({
      tools: [weather, ping],
      toolChoice: { type: "allowed", mode: "required", names: ["ping"] }
    })
    assert.deepStrictEqual(list(body["tools"]).map((tool) => at(tool, "name")), ["ping"])
    assert.deepStrictEqual(body["tool_choice"], { type: "any" })
  })
  it("writes parallel_tool_calls into the choice, and makes one where there is none", () => {
    assert.deepStrictEqual(choice({ parallelToolCalls: false }), { type: "auto", disable_parallel_tool_use: true })
    assert.deepStrictEqual(choice({ parallelToolCalls: false, toolChoice: { type: "required" } }), {
      type: "any",
      disable_parallel_tool_use: true
    })
    assert.isUndefined(choice({ parallelToolCalls: true }))
    assert.isUndefined(encode({ parallelToolCalls: false }).body["tool_choice"])
  })
  it("refuses to force a call where there are no tools", () => {
    assert.strictEqual(refusedField({ toolChoice: { type: "required" } }), "tool_choice")
  })
})

describe("encodeRequest: tool calls", () => {
  const input = (args: string) =>
    at(
      encode(conversation(user("a"), say("assistant", toolCall("t1", args)))).body,
      "messages",
      1,
      "content",
      0,
      "input"
    )
  it("parses the arguments; none at all are the empty object", () => {
    assert.deepStrictEqual(input("{\"city\":\"Rome\"}"), { city: "Rome" })
    assert.deepStrictEqual(input(""), {})
  })
  it("refuses arguments that are not the JSON of an object, by their place", () => {
    for (const args of ["{\"city\":", "null", "[1]", "\"x\""]) {
      assert.strictEqual(
        refusedField(conversation(user("a"), say("assistant", text("b"), toolCall("t1", "{}"), toolCall("t2", args)))),
        "messages[1].tool_calls[1].arguments"
      )
    }
  })
  it("rewrites ids that Anthropic refuses, the same for call and result, and without collisions", () => {
    const ids = ["call:1", "call.1", "call_1", "fine-1"]
    const { body } = encode(conversation(
      user("a"),
      say("assistant", ...ids.map((id) => toolCall(id, ""))),
      say("tool", ...ids.map((id) => toolResult(id, { type: "text", text: id })))
    ))
    const calls = list(at(body, "messages", 1, "content")).map((block) => at(block, "id"))
    const results = list(at(body, "messages", 2, "content")).map((block) => at(block, "tool_use_id"))
    assert.deepStrictEqual(calls, results)
    assert.deepStrictEqual(calls.slice(2), ["call_1", "fine-1"])
    assert.strictEqual(new Set(calls).size, 4)
    for (const id of calls) assert.match(String(id), /^[a-zA-Z0-9_-]+$/)
    const again = encode(conversation(user("b"), say("assistant", toolCall("call:1", ""))))
    assert.strictEqual(at(again.body, "messages", 1, "content", 0, "id"), calls[0])
  })
})

describe("encodeRequest: tool results", () => {
  const calls = say("assistant", toolCall("t1", ""), toolCall("t2", ""))
  it("puts all results after one turn into one user message, before the user's words", () => {
    const { body } = encode(conversation(
      user("a"),
      calls,
      say("tool", toolResult("t1", { type: "text", text: "1" })),
      user("and now?"),
      say("tool", toolResult("t2", { type: "text", text: "2" }))
    ))
    assert.deepStrictEqual(at(body, "messages", 2), {
      role: "user",
      content: [
        { type: "tool_result", tool_use_id: "t1", content: [text("1")] },
        { type: "tool_result", tool_use_id: "t2", content: [text("2")] },
        text("and now?")
      ]
    })
    assert.lengthOf(list(body["messages"]), 3)
  })
  it("makes one block for each id", () => {
    const { body } = encode(conversation(
      user("a"),
      calls,
      say("tool", toolResult("t1", { type: "text", text: "1" }), toolResult("t1", { type: "text", text: "2" }))
    ))
    assert.deepStrictEqual(at(body, "messages", 2, "content"), [
      { type: "tool_result", tool_use_id: "t1", content: [text("1"), text("2")] }
    ])
  })
  it("keeps images, documents, the error flag and the cache breakpoint, and guesses no error from text", () => {
    const { body } = encode(conversation(
      user("a"),
      calls,
      say("tool", {
        type: "tool_result",
        toolCallId: "t1",
        isError: true,
        cacheControl: { type: "ephemeral" },
        content: [
          { type: "image", source: { type: "base64", mediaType: "image/png", data: "AAAA" } },
          { type: "document", source: { type: "text", text: "doc" } }
        ]
      }, toolResult("t2", { type: "text", text: "Error: no such city" }))
    ))
    assert.deepStrictEqual(at(body, "messages", 2, "content"), [
      {
        type: "tool_result",
        tool_use_id: "t1",
        is_error: true,
        cache_control: { type: "ephemeral" },
        content: [
          { type: "image", source: { type: "base64", media_type: "image/png", data: "AAAA" } },
          { type: "document", source: { type: "text", media_type: "text/plain", data: "doc" } }
        ]
      },
      { type: "tool_result", tool_use_id: "t2", content: [text("Error: no such city")] }
    ])
  })
})

describe("encodeRequest: images", () => {
  const image = (source: Extract<Part, { type: "image" }>["source"], detail?: "auto" | "high"): Message =>
    say("user", { type: "image", source, ...(detail === undefined ? {} : { detail }) })
  const source = (message: Message) => at(encode(conversation(message)).body, "messages", 0, "content", 0, "source")
  it("sends base64, addresses and this wire's own files", () => {
    assert.deepStrictEqual(source(image({ type: "base64", mediaType: "image/webp", data: "AA==" })), {
      type: "base64",
      media_type: "image/webp",
      data: "AA=="
    })
    assert.deepStrictEqual(source(image({ type: "url", url: "https://a.b/c.png" })), {
      type: "url",
      url: "https://a.b/c.png"
    })
    assert.deepStrictEqual(source(image({ type: "provider_file", wire: "anthropic", id: "file_1" })), {
      type: "file",
      file_id: "file_1"
    })
  })
  it("refuses media types that Anthropic cannot read, other schemes and other providers' files", () => {
    assert.strictEqual(
      refusedField(conversation(image({ type: "base64", mediaType: "image/tiff", data: "AA==" }))),
      "messages[0].content[0].source.media_type"
    )
    assert.strictEqual(
      refusedField(conversation(image({ type: "url", url: "file:///etc/passwd" }))),
      "messages[0].content[0].source.url"
    )
    assert.strictEqual(
      refusedField(conversation(image({ type: "provider_file", wire: "openai", id: "file-1" }))),
      "messages[0].content[0].source"
    )
  })
  it("reports detail, unless it leaves the choice open", () => {
    const url = { type: "url", url: "https://a.b/c.png" } as const
    assert.deepStrictEqual(encode(conversation(image(url, "high"))).dropped, ["messages[].content[].detail"])
    assert.deepStrictEqual(encode(conversation(image(url, "auto"))).dropped, [])
  })
})

describe("encodeRequest: documents and other media", () => {
  const block = (part: Part) => at(encode(conversation(say("user", part))).body, "messages", 0, "content", 0)
  it("sends PDFs, addresses, texts and this wire's files with title, context and citations", () => {
    assert.deepStrictEqual(
      block({
        type: "document",
        source: { type: "base64", mediaType: "application/pdf", data: "JVBERg==" },
        title: "T",
        context: "C",
        citations: true
      }),
      {
        type: "document",
        source: { type: "base64", media_type: "application/pdf", data: "JVBERg==" },
        title: "T",
        context: "C",
        citations: { enabled: true }
      }
    )
    assert.deepStrictEqual(
      at(block({ type: "document", source: { type: "url", url: "https://a.b/c.pdf" }, filename: "c.pdf" })),
      { type: "document", source: { type: "url", url: "https://a.b/c.pdf" }, title: "c.pdf" }
    )
    assert.deepStrictEqual(
      at(block({ type: "document", source: { type: "provider_file", wire: "anthropic", id: "f" } }), "source"),
      { type: "file", file_id: "f" }
    )
  })
  it("decodes base64 of plain text into a text source", () => {
    const data = Buffer.from("naïve ✓").toString("base64")
    assert.deepStrictEqual(
      at(
        block({ type: "document", source: { type: "base64", mediaType: "text/plain; charset=utf-8", data } }),
        "source"
      ),
      { type: "text", media_type: "text/plain", data: "naïve ✓" }
    )
  })
  it("refuses audio, video, unknown documents and another provider's files by their place", () => {
    const source = { type: "base64", mediaType: "audio/wav", data: "AA==" } as const
    assert.strictEqual(
      refusedField(conversation(say("user", text("a"), { type: "audio", source }))),
      "messages[0].content[1]"
    )
    assert.strictEqual(refusedField(conversation(say("user", { type: "video", source }))), "messages[0].content[0]")
    assert.strictEqual(
      refusedField(conversation(say("user", { type: "document", source }))),
      "messages[0].content[0].source.media_type"
    )
    assert.strictEqual(
      refusedField(
        conversation(say("user", { type: "document", source: { type: "provider_file", wire: "openai", id: "f" } }))
      ),
      "messages[0].content[0].source"
    )
    assert.strictEqual(
      refusedField(conversation(say("user", { type: "opaque", wire: "openai", value: { type: "item" } }))),
      "messages[0].content[0]"
    )
  })
})

describe("encodeRequest: sampling and other parameters", () => {
  it("drops blank stop sequences with a report", () => {
    const { body, dropped } = encode({ stop: ["", "END", " \n"] })
    assert.deepStrictEqual(body["stop_sequences"], ["END"])
    assert.deepStrictEqual(dropped, ["stop (blank members)"])
  })
  it("clamps the temperature to 1 and says so", () => {
    const { body, dropped } = encode({ temperature: 1.6 })
    assert.strictEqual(body["temperature"], 1)
    assert.deepStrictEqual(dropped, ["temperature (clamped to 1)"])
  })
  it("forwards top_p and top_k", () => {
    const { body, dropped } = encode({ topP: 0.5, topK: 3 })
    assert.strictEqual(body["top_p"], 0.5)
    assert.strictEqual(body["top_k"], 3)
    assert.deepStrictEqual(dropped, [])
  })
  it("sends top_p beside a temperature only to models that take both", () => {
    assert.strictEqual(encode({ temperature: 0.7, topP: 0.3 }, early).body["top_p"], 0.3)
    const newer = encode({ temperature: 0.7, topP: 0.3 })
    assert.isUndefined(newer.body["top_p"])
    assert.deepStrictEqual(newer.dropped, ["top_p"])
  })
  it("drops sampling parameters with a report on models that have none", () => {
    const { body, dropped } = encode({ temperature: 0.2, topP: 0.5, topK: 4 }, adaptive)
    assert.isUndefined(body["temperature"])
    assert.deepStrictEqual(dropped, ["temperature", "top_p", "top_k"])
    assert.deepStrictEqual(encode({ temperature: 1, topP: 1 }, adaptive).dropped, [])
  })
  it("refuses more than one answer and reports what has no form", () => {
    assert.strictEqual(refusedField({ n: 2 }), "n")
    const { dropped } = encode({
      n: 1,
      logitBias: { "1": 2 },
      logprobs: true,
      topLogprobs: 2,
      presencePenalty: 1,
      frequencyPenalty: 1,
      seed: 0,
      minP: 0.1,
      repeatPenalty: 1.1,
      metadata: { a: "b" }
    })
    assert.deepStrictEqual(
      new Set(dropped),
      new Set([
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "min_p",
        "repeat_penalty",
        "metadata"
      ])
    )
  })
  it("hashes the user", () => {
    assert.deepStrictEqual(encode({ user: "ann@example.com" }).body["metadata"], {
      user_id: createHash("sha256").update("ann@example.com").digest("hex")
    })
  })
  it("maps service tiers and reports those that Anthropic lacks", () => {
    assert.strictEqual(encode({ serviceTier: "auto" }).body["service_tier"], "auto")
    assert.strictEqual(encode({ serviceTier: "default" }).body["service_tier"], "standard_only")
    assert.strictEqual(encode({ serviceTier: "standard_only" }).body["service_tier"], "standard_only")
    const flex = encode({ serviceTier: "flex" })
    assert.isUndefined(flex.body["service_tier"])
    assert.deepStrictEqual(flex.dropped, ["service_tier"])
  })
  it("asks for a stream only where one is wanted", () => {
    assert.isUndefined(encode().body["stream"])
    assert.strictEqual(success(anthropicMessages.encodeRequest(callOf(), true)).body["stream"], true)
  })
})

describe("encodeRequest: reasoning", () => {
  it("gives a budget to models that think by budget, within their bounds", () => {
    const budget = (budgetTokens: number, maxOutputTokens: number) =>
      encode({ reasoning: { budgetTokens }, maxOutputTokens })
    assert.deepStrictEqual(budget(2000, 4096).body["thinking"], { type: "enabled", budget_tokens: 2000 })
    assert.deepStrictEqual(budget(2000, 4096).dropped, [])
    assert.deepStrictEqual(budget(10, 4096).body["thinking"], { type: "enabled", budget_tokens: 1024 })
    assert.deepStrictEqual(budget(9000, 4096).body["thinking"], { type: "enabled", budget_tokens: 4095 })
    assert.deepStrictEqual(budget(9000, 4096).dropped, ["reasoning.budget_tokens (clamped to 4095)"])
    const small = budget(2000, 1024)
    assert.isUndefined(small.body["thinking"])
    assert.deepStrictEqual(small.dropped, ["reasoning"])
  })
  it("turns an effort into a budget there, leaving room for the answer", () => {
    const thinking = (effort: "low" | "max") =>
      encode({ reasoning: { effort }, maxOutputTokens: 10_000 }).body["thinking"]
    assert.deepStrictEqual(thinking("low"), { type: "enabled", budget_tokens: 2048 })
    assert.deepStrictEqual(thinking("max"), { type: "enabled", budget_tokens: 8000 })
  })
  it("uses adaptive thinking and an effort where the model has them", () => {
    const { body, dropped } = encode({ reasoning: { effort: "xhigh" } }, adaptive)
    assert.deepStrictEqual(body["thinking"], { type: "adaptive" })
    assert.deepStrictEqual(body["output_config"], { effort: "xhigh" })
    assert.deepStrictEqual(dropped, [])
    assert.strictEqual(
      at(encode({ reasoning: { effort: "minimal" } }, adaptive).body, "output_config", "effort"),
      "low"
    )
    assert.strictEqual(
      at(encode({ reasoning: { effort: "xhigh" } }, "claude-opus-4-6").body, "output_config", "effort"),
      "high"
    )
  })
  it("reports a budget that became an effort", () => {
    const { body, dropped } = encode({ reasoning: { budgetTokens: 4000 } }, adaptive)
    assert.deepStrictEqual(body["output_config"], { effort: "medium" })
    assert.deepStrictEqual(dropped, ["reasoning.budget_tokens (as effort medium)"])
  })
  it("switches thinking off where the request says so, and reports where it cannot be", () => {
    for (const reasoning of [{ effort: "none" }, { enabled: false }, { budgetTokens: 0 }] as const) {
      assert.deepStrictEqual(encode({ reasoning }).body["thinking"], { type: "disabled" })
    }
    const always = encode({ reasoning: { effort: "none" } }, "claude-opus-5-5")
    assert.isUndefined(always.body["thinking"])
    assert.deepStrictEqual(always.dropped, ["reasoning"])
  })
  it("leaves thinking out where a tool call is forced", () => {
    for (const model of [manual, adaptive]) {
      const { body, dropped } = encode({
        reasoning: { effort: "high" },
        tools: [ping],
        toolChoice: { type: "required" }
      }, model)
      assert.isUndefined(body["thinking"])
      assert.deepStrictEqual(dropped, ["reasoning"])
    }
  })
  it("drops temperature and top_k beside thinking", () => {
    const { body, dropped } = encode({ reasoning: { budgetTokens: 2000 }, temperature: 0.5, topK: 3, topP: 0.5 })
    assert.isUndefined(body["temperature"])
    assert.deepStrictEqual(dropped, ["temperature", "top_p", "top_k"])
    assert.strictEqual(encode({ reasoning: { budgetTokens: 2000 }, temperature: 1 }).body["temperature"], 1)
  })
  const signed: Part = { type: "reasoning", text: "hm", signature: "sig", wire: "anthropic" }
  it("returns thinking and redacted thinking unmodified, before text and calls of their turn", () => {
    const redacted: Part = { type: "reasoning", data: "xyz", wire: "anthropic" }
    const { body } = encode(conversation(user("a"), say("assistant", text("b"), toolCall("t", ""), signed, redacted)))
    assert.deepStrictEqual(at(body, "messages", 1, "content"), [
      { type: "thinking", thinking: "hm", signature: "sig" },
      { type: "redacted_thinking", data: "xyz" },
      text("b"),
      { type: "tool_use", id: "t", name: "weather", input: {} }
    ])
  })
  it("sends no thinking that Anthropic could not verify, and reports it", () => {
    const unsigned: ReadonlyArray<Part> = [
      { type: "reasoning", text: "hm" },
      { type: "reasoning", text: "hm", data: "enc", wire: "openai" }
    ]
    for (const part of unsigned) {
      const { body, dropped } = encode(conversation(user("a"), say("assistant", part, text("b")), user("c")))
      assert.deepStrictEqual(at(body, "messages", 1, "content"), [text("b")])
      assert.deepStrictEqual(dropped, ["messages[].content[].reasoning"])
    }
  })
  it("disables thinking for a tool turn that came back without its thinking", () => {
    const turn = (...content: ReadonlyArray<Part>) => ({
      reasoning: { budgetTokens: 2000 },
      ...conversation(
        user("a"),
        say("assistant", ...content),
        say("tool", toolResult("t", { type: "text", text: "1" }))
      )
    })
    const broken = encode(turn(toolCall("t", "")))
    assert.isUndefined(broken.body["thinking"])
    assert.deepStrictEqual(broken.dropped, ["reasoning"])
    assert.deepStrictEqual(encode(turn(signed, toolCall("t", ""))).body["thinking"], {
      type: "enabled",
      budget_tokens: 2000
    })
    // Adaptive thinking does not need them.
    assert.deepStrictEqual(encode(turn(toolCall("t", "")), adaptive).body["thinking"], { type: "adaptive" })
  })
  it("keeps thinking where an older tool turn lacks it", () => {
    const { body } = encode({
      reasoning: { budgetTokens: 2000 },
      ...conversation(
        user("a"),
        say("assistant", toolCall("t", "")),
        say("tool", toolResult("t", { type: "text", text: "1" })),
        assistant("done"),
        user("again")
      )
    })
    assert.deepStrictEqual(body["thinking"], { type: "enabled", budget_tokens: 2000 })
  })
})

describe("encodeRequest: response schema", () => {
  const responseSchema = {
    type: "json_schema",
    name: "my answer",
    schema: { type: "object", properties: { a: { type: "number" } } }
  } as const
  it("uses output_config.format where the model has it", () => {
    const { body, dropped } = encode({ responseSchema })
    assert.deepStrictEqual(body["output_config"], { format: { type: "json_schema", schema: responseSchema.schema } })
    assert.isUndefined(body["tools"])
    assert.deepStrictEqual(dropped, [])
  })
  it("forces a single tool elsewhere, without thinking", () => {
    const { body, dropped } = encode({ responseSchema, reasoning: { budgetTokens: 2000 } }, early)
    assert.strictEqual(at(body["tools"], 0, "name"), "my_answer")
    assert.deepStrictEqual(at(body["tools"], 0, "input_schema"), responseSchema.schema)
    assert.deepStrictEqual(body["tool_choice"], { type: "tool", name: "my_answer", disable_parallel_tool_use: true })
    assert.isUndefined(body["thinking"])
    assert.deepStrictEqual(dropped, ["reasoning"])
  })
  it("keeps the caller's tools callable beside it, under a name of its own", () => {
    const { body } = encode({ responseSchema: { ...responseSchema, name: "ping" }, tools: [ping] }, early)
    assert.deepStrictEqual(list(body["tools"]).map((tool) => at(tool, "name")), ["ping", "ping_answer"])
    assert.deepStrictEqual(body["tool_choice"], { type: "any" })
  })
  it("gives way to a tool call that the caller forces, and says so", () => {
    const { body, dropped } = encode({ responseSchema, tools: [ping], toolChoice: { type: "required" } }, early)
    assert.deepStrictEqual(list(body["tools"]).map((tool) => at(tool, "name")), ["ping"])
    assert.deepStrictEqual(dropped, ["response_schema"])
  })
  it("refuses a schema for that tool that is not an object's", () => {
    assert.strictEqual(
      refusedField({ responseSchema: { type: "json_schema", schema: { type: "array" } } }, early),
      "response_schema.schema"
    )
  })
  it("asks for any JSON object by an instruction, and says so", () => {
    const { body, dropped } = encode({ responseSchema: { type: "json_object" } })
    assert.include(String(at(body["system"], 0, "text")), "JSON object")
    assert.deepStrictEqual(dropped, ["response_schema (by instruction)"])
  })
})

describe("encodeRequest: cache_control", () => {
  const cached = (value: string): Part => ({
    type: "text",
    text: value,
    cacheControl: { type: "ephemeral", ttl: "1h" }
  })
  it("keeps breakpoints and their lifetimes on parts, calls, tools and system", () => {
    const { body } = encode({
      tools: [{ ...ping, cacheControl: { type: "ephemeral", ttl: "1h" } }],
      ...conversation(
        say("system", cached("s")),
        say("user", cached("u")),
        say("assistant", {
          type: "tool_call",
          id: "t",
          name: "ping",
          arguments: "",
          cacheControl: { type: "ephemeral" }
        })
      )
    })
    const long = { type: "ephemeral", ttl: "1h" }
    assert.deepStrictEqual(at(body, "tools", 0, "cache_control"), long)
    assert.deepStrictEqual(at(body, "system", 0, "cache_control"), long)
    assert.deepStrictEqual(at(body, "messages", 0, "content", 0, "cache_control"), long)
    assert.deepStrictEqual(at(body, "messages", 1, "content", 0, "cache_control"), { type: "ephemeral" })
  })
  it("refuses the fifth breakpoint by its place", () => {
    assert.strictEqual(
      refusedField(
        conversation(say("system", cached("1")), say("user", cached("2"), cached("3"), cached("4"), cached("5")))
      ),
      "messages[1].content[3].cache_control"
    )
  })
  it("counts a breakpoint that a second result for the same call brings", () => {
    const call: Message = { role: "assistant", content: [{ type: "tool_call", id: "a", name: "f", arguments: "" }] }
    const result = (cache: boolean): Part => ({
      type: "tool_result",
      toolCallId: "a",
      content: [],
      ...(cache ? { cacheControl: { type: "ephemeral" } } : {})
    })
    assert.strictEqual(
      refusedField(
        conversation(
          say("user", cached("1"), cached("2"), cached("3"), cached("4")),
          call,
          { role: "tool", content: [result(false), result(true)] }
        )
      ),
      "messages[2].content[1].cache_control"
    )
  })
  it("reports a breakpoint on text that is too blank to be sent", () => {
    const { dropped } = encode(conversation(say("user", { type: "text", text: "a" }, cached(" "))))
    assert.deepStrictEqual(dropped, ["messages[].content[].cache_control"])
  })
})

describe("encodeRequest: extensions", () => {
  it("merges them at every level without overriding what the gateway sets", () => {
    const { body } = encode({
      tools: [{ ...ping, extensions: { anthropic: { defer_loading: true, name: "evil" } } }],
      messages: [{
        role: "user",
        content: [{ type: "text", text: "a", extensions: { anthropic: { x: 1, text: "evil" }, openai: { y: 2 } } }],
        extensions: { anthropic: { z: 3, role: "evil" } }
      }],
      extensions: { anthropic: { container: "c", model: "evil", stream: true, max_tokens: 1 } }
    })
    assert.deepStrictEqual(body, {
      container: "c",
      model: manual,
      max_tokens: 8192,
      messages: [{ z: 3, role: "user", content: [{ x: 1, type: "text", text: "a" }] }],
      tools: [{ defer_loading: true, name: "ping", input_schema: { type: "object", properties: {} } }]
    })
  })
  it("turns version and betas into headers", () => {
    assert.deepStrictEqual(encode().headers, { "anthropic-version": "2023-06-01" })
    const { body, headers } = encode({
      extensions: { anthropic: { anthropic_version: "2026-10-21", anthropic_beta: ["a-2025-01-01", "b"] } }
    })
    assert.deepStrictEqual(headers, { "anthropic-version": "2026-10-21", "anthropic-beta": "a-2025-01-01,b" })
    assert.isUndefined(body["anthropic_beta"])
    assert.isUndefined(body["anthropic_version"])
    assert.strictEqual(refusedField({ extensions: { anthropic: { anthropic_beta: ["a\r\nx: y"] } } }), "anthropic_beta")
  })
  it("defines a key named __proto__ instead of setting a prototype", () => {
    const own = object(JSON.parse("{\"__proto__\":{\"polluted\":true}}"))
    const { body } = encode({ extensions: { anthropic: own } })
    assert.isUndefined(body["polluted"])
    assert.isTrue(Object.hasOwn(body, "__proto__"))
  })
})

describe("traitsOf", () => {
  it("reads versions in every spelling of the id", () => {
    for (
      const id of [
        "claude-opus-4-1-20250805",
        "us.anthropic.claude-opus-4-1-20250805-v1:0",
        "anthropic/claude-opus-4.1"
      ]
    ) {
      assert.isTrue(traitsOf(id).structuredOutput, id)
      assert.isFalse(traitsOf(id).adaptiveThinking, id)
    }
    for (const id of ["claude-sonnet-4-20250514", "claude-sonnet-4-0", "claude-3-5-sonnet-20241022", "deepseek-chat"]) {
      assert.isFalse(traitsOf(id).structuredOutput, id)
      assert.isTrue(traitsOf(id).temperatureWithTopP, id)
    }
    for (const id of ["claude-opus-5", "claude-fable-5-2", "claude-haiku-5-5", "claude-mythos-preview"]) {
      assert.isTrue(traitsOf(id).adaptiveThinking, id)
      assert.isFalse(traitsOf(id).manualThinking, id)
      assert.isFalse(traitsOf(id).sampling, id)
    }
  })
})
