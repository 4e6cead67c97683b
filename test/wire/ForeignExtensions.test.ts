/** Nothing that a caller sends is lost without a word: what the upstream's wire has no form for is named. */
import { assert, describe, it } from "@effect/vitest"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { at, callOf, codecs, ok, plain, sent, type WireName, wires } from "./Wires.ts"

const user = { role: "user", content: "Hi" }
const odd = { x: [1] }

/** Something unknown at every level of an OpenAI request, and everything that its decoder keeps twice. */
const openAi = {
  model: "m",
  foo: odd,
  verbosity: "low",
  nothing: null,
  max_tokens: 100,
  stop: "END",
  top_k: 5,
  safety_identifier: "s",
  stream: true,
  stream_options: { include_usage: true, include_obfuscation: false },
  response_format: { type: "text" },
  messages: [
    { role: "system", content: "Be brief.", foo: 1 },
    {
      role: "user",
      cache_control: { type: "ephemeral" },
      content: [
        { type: "text", text: "Look.", cache_control: { type: "ephemeral" }, foo: 1 },
        { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=", fps: 1 }, foo: 2 }
      ]
    },
    {
      role: "assistant",
      content: null,
      reasoning: "Hm.",
      annotations: [],
      tool_calls: [{ id: "call_1", type: "function", function: { name: "f", arguments: "{}", inner: 1 } }]
    },
    { role: "tool", tool_call_id: "call_1", content: [{ type: "text", text: "ok", bar: 1 }] }
  ],
  tools: [
    {
      type: "function",
      cache_control: { type: "ephemeral", ttl: "1h" },
      foo: 1,
      function: { name: "f", parameters: { type: "object" }, inner: 1 }
    }
  ]
}

const foreign = [
  "foo",
  "verbosity",
  "messages[].foo",
  "messages[].content[].foo",
  "messages[].content[].image_url.fps",
  "messages[].annotations",
  "messages[].content[].function.inner",
  "messages[].content[].bar",
  "tools[].foo",
  "tools[].function.inner"
]

describe("fields of another wire", () => {
  it("are named once each, with their level, where an OpenAI caller's request goes to Anthropic", () => {
    const { body, dropped } = sent("openai", "anthropic", openAi)
    assert.deepStrictEqual(dropped.toSorted(), [...foreign, "messages[].content[].reasoning"].toSorted())
    // What the decoder keeps twice has arrived.
    assert.strictEqual(body["max_tokens"], 100)
    assert.deepStrictEqual(body["stop_sequences"], ["END"])
    assert.strictEqual(body["top_k"], 5)
    assert.deepStrictEqual(at(body, "tools", 0, "cache_control"), { type: "ephemeral", ttl: "1h" })
    assert.deepStrictEqual(at(body, "messages", 0, "content", 0, "cache_control"), { type: "ephemeral" })
  })

  it("are named once each where it goes to Ollama", () => {
    const { dropped } = sent("openai", "ollama", openAi)
    assert.deepStrictEqual(
      dropped.toSorted(),
      [...foreign, "messages[].content[].cache_control", "tools[].cache_control", "user"].toSorted()
    )
  })

  it("are none where it goes to an upstream of its own wire", () => {
    assert.deepStrictEqual(sent("openai", "openai", openAi).dropped, [])
  })

  it("are named where an Anthropic caller's request goes elsewhere, but not its headers and marks", () => {
    const body = {
      model: "m",
      max_tokens: 100,
      anthropic_beta: ["b"],
      anthropic_version: "2023-06-01",
      container: "c",
      metadata: { user_id: "u", team: "t" },
      thinking: { type: "enabled", budget_tokens: 2048, display: "omitted" },
      output_config: { effort: "low", extra: 1 },
      messages: [
        { role: "user", content: [{ type: "text", text: "Hi", x: 1 }] },
        { role: "system", content: "Mind the step." },
        {
          role: "assistant",
          content: [{ type: "tool_use", id: "t", name: "f", input: {}, caller: { type: "direct" } }]
        },
        { role: "user", content: [{ type: "tool_result", tool_use_id: "t", content: "ok", y: 1 }] }
      ],
      tools: [{ name: "f", input_schema: { type: "object" }, defer_loading: true }]
    }
    const expected = [
      "container",
      "metadata.team",
      "thinking.display",
      "output_config.extra",
      "messages[].content[].x",
      "messages[].content[].caller",
      "messages[].content[].y",
      "tools[].defer_loading"
    ]
    for (const wire of ["openai", "ollama"] as const) {
      const { dropped } = sent("anthropic", wire, body)
      assert.includeMembers([...dropped], expected, wire)
      assert.isEmpty(dropped.filter((name) => /beta|version|mid_conversation/.test(name)), wire)
    }
    // An effort that came without `thinking` leaves a mark for this wire alone.
    const effort = { model: "m", max_tokens: 1, messages: [user], output_config: { effort: "low" } }
    assert.deepStrictEqual(sent("anthropic", "openai", effort).dropped, [])
  })

  it("are named where an Ollama caller's request goes elsewhere, options one by one", () => {
    const body = {
      model: "m",
      keep_alive: "5m",
      options: { temperature: 0.5, num_ctx: 4096, mirostat: 1 },
      messages: [
        { ...user, x: 1 },
        { role: "assistant", tool_calls: [{ id: "c", function: { name: "f", arguments: {} } }] },
        { role: "tool", tool_call_id: "c", tool_name: "nobody", content: "?" }
      ]
    }
    for (const wire of ["openai", "anthropic"] as const) {
      assert.deepStrictEqual(
        sent("ollama", wire, body).dropped.toSorted(),
        ["keep_alive", "messages[].x", "options.mirostat", "options.num_ctx"],
        wire
      )
    }
  })

  it("are named for a wire that nobody knows, and never for the one that is written", () => {
    for (const wire of wires) {
      const request: ChatRequest = { ...plain, extensions: { [wire]: { mine: 1 }, unheard: { theirs: 1 } } }
      const { body, dropped } = ok(codecs[wire].encodeRequest(callOf(request, wire), false))
      assert.deepStrictEqual(dropped, ["theirs"])
      assert.strictEqual(body["mine"], 1)
    }
  })

  it("that ask for nothing, or tell again what a canonical field says, are not named", () => {
    const body = { model: "m", messages: [user], response_format: { type: "text" }, unset: null, max_tokens: 5 }
    assert.deepStrictEqual(sent("openai", "anthropic", body).dropped, [])
    // Out of the range that the sdk reads, it is told nowhere else.
    assert.deepStrictEqual(sent("openai", "ollama", { model: "m", messages: [user], top_k: 0 }).dropped, ["top_k"])
  })

  it("are told in bounded space, whatever their number and length", () => {
    const many: Record<string, unknown> = { model: "m", messages: [user] }
    for (let index = 0; index < 5000; index += 1) many[`${"x".repeat(500)}${index}`] = index
    for (let index = 0; index < 5000; index += 1) many[`y${index}`] = index
    const { dropped } = sent("openai", "anthropic", many)
    assert.isAtMost(dropped.length, 25)
    assert.isAtMost(dropped.join(", ").length, 2000)
    assert.match(dropped.at(-1) ?? "", /^\d+ more fields of other protocols$/)
  })
})

describe("dropped names", () => {
  const cacheControl = { type: "ephemeral" } as const
  const request: ChatRequest = {
    model: "m",
    messages: [
      { role: "user", content: [{ type: "text", text: "Hi", cacheControl }], name: "ann" },
      {
        role: "assistant",
        content: [
          { type: "reasoning", data: "secret", wire: "other" },
          { type: "tool_call", id: "c", name: "f", arguments: "{}", cacheControl }
        ]
      },
      { role: "tool", content: [{ type: "tool_result", toolCallId: "c", content: [], isError: true, cacheControl }] }
    ],
    tools: [{ type: "unified", name: "f", cacheControl }],
    repeatPenalty: 1.2
  }
  const expected: Readonly<Record<WireName, ReadonlyArray<string>>> = {
    openai: [
      "messages[].content[].cache_control",
      "messages[].content[].is_error",
      "messages[].content[].reasoning",
      "repeat_penalty",
      "tools[].cache_control"
    ],
    anthropic: ["messages[].content[].reasoning", "messages[].name", "repeat_penalty"],
    ollama: [
      "messages[].content[].cache_control",
      "messages[].content[].is_error",
      "messages[].content[].reasoning",
      "messages[].name",
      "tools[].cache_control"
    ]
  }
  it.each(wires)("have one form for %s too", (wire) => {
    assert.deepStrictEqual(
      ok(codecs[wire].encodeRequest(callOf(request, wire), false)).dropped.toSorted(),
      expected[wire]
    )
  })

  it.each(wires)("tell of thinking whose signature %s cannot have", (wire) => {
    const thought: ChatRequest = {
      ...plain,
      messages: [
        ...plain.messages,
        { role: "assistant", content: [{ type: "reasoning", text: "Hm.", signature: "s", wire: "other" }] },
        { role: "user", content: [{ type: "text", text: "And?" }] }
      ]
    }
    assert.deepStrictEqual(ok(codecs[wire].encodeRequest(callOf(thought, wire), false)).dropped, [
      wire === "ollama" ? "messages[].content[].signature" : "messages[].content[].reasoning"
    ])
  })

  it("tell of a signature of this wire that has no detail to go back in", () => {
    const thought: ChatRequest = {
      ...plain,
      messages: [
        ...plain.messages,
        { role: "assistant", content: [{ type: "reasoning", text: "Hm.", signature: "s", wire: "openai" }] }
      ]
    }
    const { body, dropped } = ok(codecs.openai.encodeRequest(callOf(thought, "openai"), false))
    assert.deepStrictEqual(dropped, ["messages[].content[].signature"])
    assert.strictEqual(at(body, "messages", 1, "reasoning_content"), "Hm.")
  })
})

describe("the end user's name", () => {
  const identified = { model: "m", messages: [user], safety_identifier: "ann" }
  it("reaches Anthropic hashed, also where it is told as safety_identifier", () => {
    const named = sent("openai", "anthropic", { model: "m", messages: [user], user: "ann" })
    const { body, dropped } = sent("openai", "anthropic", identified)
    assert.deepStrictEqual(body["metadata"], named.body["metadata"])
    assert.match(String(at(body, "metadata", "user_id")), /^[0-9a-f]{64}$/)
    assert.deepStrictEqual(dropped, [])
  })
  it("goes to OpenAI in the spelling or spellings in which it came", () => {
    for (const body of [identified, { ...identified, user: "ann" }, { ...identified, user: "bob" }]) {
      assert.deepStrictEqual(sent("openai", "openai", body).body, { ...body, model: "gpt-x" })
    }
  })
})
