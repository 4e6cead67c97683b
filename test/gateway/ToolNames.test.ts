/** Tools by their GTS identifiers: what the provider is told, and what the caller reads of it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { layerMemory } from "../../src/modules/typeRegistry/TypeRegistryMemory.ts"
import type { ChatChunk, ChatRequest } from "../../src/sdk/Chat.ts"
import type { ToolCallPart } from "../../src/sdk/Content.ts"
import type { ToolChoice } from "../../src/sdk/Tool.ts"
import { answers, compose, finish, plain, request } from "./PlainProvider.ts"

const id = "gts.x.core.faas.func.v1~acme.app._.get_weather.v1~"
const called = (name: string): ToolCallPart => ({ type: "tool_call", id: "call-1", name, arguments: "{}" })

/** A gateway whose provider calls `get_weather` and `own`, and the requests that it was sent. */
const calling = () => {
  const sent: Array<ChatRequest> = []
  const whole = { ...answers(""), content: [called("get_weather"), called("own")], finishReason: "tool_calls" as const }
  const chunks: ReadonlyArray<ChatChunk> = [
    { id: "answer-1", model: "m", delta: [{ type: "tool_call", index: 0, id: "call-1", name: "get_weather" }] },
    { id: "answer-1", model: "m", delta: [{ type: "tool_call", index: 0, arguments: "{}" }] },
    {
      id: "answer-1",
      model: "m",
      delta: [{ type: "tool_call", index: 1, id: "call-2", name: "own", arguments: "{}" }]
    },
    { ...finish, finishReason: "tool_calls" }
  ]
  const provider = plain({
    chat: (call) =>
      Effect.sync(() => {
        sent.push(call.request)
        return { ...whole, alternatives: [{ index: 1, content: whole.content, finishReason: whole.finishReason }] }
      }),
    streamChat: () => Stream.fromIterable(chunks)
  })
  const types = Layer.orDie(layerMemory([{ $id: `gts://${id}`, type: "object", properties: {} }]))
  return { sent, gateway: Effect.provide(compose({ providers: [provider], types })) }
}

const asked = (toolChoice: ToolChoice): ChatRequest => ({
  ...request,
  messages: [
    ...request.messages,
    { role: "assistant", content: [called(id), called(`gts://${id}`), called("own")] }
  ],
  tools: [{ type: "reference", schemaId: id }, { type: "unified", name: "own" }],
  toolChoice
})

describe("tools that the caller knows by a GTS identifier", () => {
  it.effect("go to the provider under one name: in the list, in earlier calls, in the choice", () => {
    const { gateway, sent } = calling()
    return Effect.gen(function*() {
      const { chat } = yield* Gateway
      yield* chat(asked({ type: "tool", name: id }))
      yield* chat(asked({ type: "allowed", mode: "auto", names: [`gts://${id}`, "own"] }))
      yield* chat(asked({ type: "required" }))
      assert.deepStrictEqual(sent.map(({ toolChoice }) => toolChoice), [
        { type: "tool", name: "get_weather" },
        { type: "allowed", mode: "auto", names: ["get_weather", "own"] },
        { type: "required" }
      ])
      for (const { messages, tools = [] } of sent) {
        assert.deepStrictEqual(tools.map((tool) => tool.type === "unified" ? tool.name : tool.type), [
          "get_weather",
          "own"
        ])
        assert.deepStrictEqual(messages[1]?.content, [called("get_weather"), called("get_weather"), called("own")])
      }
    }).pipe(gateway)
  })

  it.effect("come back under the identifier, in every alternative", () =>
    Effect.gen(function*() {
      const answer = yield* (yield* Gateway).chat(asked({ type: "auto" }))
      assert.deepStrictEqual(answer.content, [called(id), called("own")])
      assert.deepStrictEqual(answer.alternatives?.map(({ content }) => content), [[called(id), called("own")]])
    }).pipe(calling().gateway))

  it.effect("come back under the identifier in a stream", () =>
    Effect.gen(function*() {
      const chunks = yield* Stream.runCollect(Stream.unwrap(
        Effect.map(Gateway, (gateway) => gateway.streamChat(asked({ type: "auto" })))
      ))
      const names = chunks.flatMap(({ delta }) => delta).flatMap((delta) =>
        delta.type === "tool_call" && delta.name !== undefined ? [delta.name] : []
      )
      assert.deepStrictEqual(names, [id, "own"])
    }).pipe(calling().gateway))
})
