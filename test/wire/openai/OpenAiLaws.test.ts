import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { ChatRequest, Message } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import { callOf, codec, copyOf, dataOf, decodeStream, gather, ok, usageOf, written } from "./Support.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What the wire can say
// ---------------------------------------------------------------------------------------------------------------------

const Base64 = Schema.Literals(["AAAA", "iVBORw0KGgo=", "/+8="])
const Url = Schema.Literals(["https://x.org/a", "http://y.org/b?c=d"])
const Inline = Schema.Struct({
  type: Schema.Literal("base64"),
  mediaType: Schema.Literals(["image/png", "a/b"]),
  data: Base64
})
const Addressed = Schema.Struct({ type: Schema.Literal("url"), url: Url })
const Text = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String })
const Refusal = Schema.Struct({ type: Schema.Literal("refusal"), text: Schema.String })
const Call = Schema.Struct({
  type: Schema.Literal("tool_call"),
  id: Schema.Literals(["call_a", "call_b"]),
  name: Schema.NonEmptyString,
  arguments: Schema.String
})
const Thought = Schema.Struct({
  type: Schema.Literal("reasoning"),
  text: Schema.NonEmptyString,
  wire: Schema.Literal("openai")
})
const UserPart = Schema.Union([
  Text,
  Schema.Struct({
    type: Schema.Literal("image"),
    source: Schema.Union([Inline, Addressed]),
    detail: Schema.optionalKey(Schema.Literals(["auto", "low", "high", "original"]))
  }),
  Schema.Struct({ type: Schema.Literal("video"), source: Schema.Union([Inline, Addressed]) }),
  Schema.Struct({
    type: Schema.Literal("audio"),
    source: Schema.Struct({
      type: Schema.Literal("base64"),
      mediaType: Schema.Literals(["audio/wav", "audio/mpeg"]),
      data: Base64
    })
  }),
  Schema.Struct({
    type: Schema.Literal("document"),
    filename: Schema.String,
    source: Schema.Union([
      Inline,
      Schema.Struct({
        type: Schema.Literal("provider_file"),
        wire: Schema.Literal("openai"),
        id: Schema.NonEmptyString
      })
    ])
  })
])
const Turn = Schema.Struct({
  role: Schema.Literals(["user", "system", "developer"]),
  content: Schema.NonEmptyArray(UserPart),
  name: Schema.optionalKey(Schema.String)
})
const Answer = Schema.Struct({
  thought: Schema.optionalKey(Thought),
  texts: Schema.Array(Text),
  refusal: Schema.optionalKey(Refusal),
  calls: Schema.Array(Call)
})
const Integer = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1e9 }))
const Parameters = Schema.Struct({
  maxOutputTokens: Schema.optionalKey(Integer),
  temperature: Schema.optionalKey(Schema.Literals([0, 0.7, 2])),
  topP: Schema.optionalKey(Schema.Literals([0, 0.5, 1])),
  seed: Schema.optionalKey(Integer),
  stop: Schema.optionalKey(Schema.Array(Schema.String)),
  n: Schema.optionalKey(Integer),
  logprobs: Schema.optionalKey(Schema.Boolean),
  reasoning: Schema.optionalKey(Schema.Struct({ effort: Schema.Literals(["none", "low", "max"]) })),
  user: Schema.optionalKey(Schema.String),
  metadata: Schema.optionalKey(Schema.Record(Schema.Literals(["a", "b"]), Schema.String)),
  parallelToolCalls: Schema.optionalKey(Schema.Boolean),
  toolChoice: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literals(["auto", "none", "required"]) }),
    Schema.Struct({ type: Schema.Literal("tool"), name: Schema.NonEmptyString }),
    Schema.Struct({
      type: Schema.Literal("allowed"),
      mode: Schema.Literals(["auto", "required"]),
      names: Schema.Array(Schema.NonEmptyString)
    })
  ])),
  responseSchema: Schema.optionalKey(Schema.Union([
    Schema.Struct({ type: Schema.Literal("json_object") }),
    Schema.Struct({
      type: Schema.Literal("json_schema"),
      name: Schema.NonEmptyString,
      schema: Schema.Struct({ type: Schema.Literal("object") }),
      strict: Schema.optionalKey(Schema.Boolean)
    })
  ]))
})
const SimpleTool = Schema.Struct({
  type: Schema.Literal("unified"),
  name: Schema.NonEmptyString,
  description: Schema.optionalKey(Schema.String),
  parameters: Schema.optionalKey(Schema.Struct({ type: Schema.Literal("object"), $defs: Schema.Struct({}) })),
  strict: Schema.optionalKey(Schema.Boolean)
})

/** The assistant's turn in OpenAI's order, and a result for each call that it holds. */
const turnsOf = (answer: typeof Answer.Type): ReadonlyArray<Message> => {
  const calls = answer.calls.filter((call, index, all) => all.findIndex(({ id }) => id === call.id) === index)
  const content: Array<Part> = [
    ...(answer.thought === undefined ? [] : [answer.thought]),
    ...answer.texts,
    ...(answer.refusal === undefined ? [] : [answer.refusal]),
    ...calls
  ]
  const results = calls.map((call): Message => ({
    role: "tool",
    content: [{ type: "tool_result", toolCallId: call.id, content: [{ type: "text", text: call.arguments }] }]
  }))
  return [{ role: "assistant", content }, ...results]
}

describe("laws", () => {
  it.prop(
    "a request that the wire can say comes back as it was",
    [Turn, Schema.Array(Answer), Parameters, Schema.Array(SimpleTool)],
    ([first, answers, parameters, tools]) => {
      const request: ChatRequest = {
        model: "gpt-x",
        messages: [first, ...answers.flatMap(turnsOf)],
        ...parameters,
        ...(tools.length === 0 ? {} : { tools })
      }
      const { body, dropped } = ok(codec.encodeRequest(callOf(request), false))
      assert.deepStrictEqual(dropped, [])
      assert.deepStrictEqual(ok(codec.decodeRequest(JSON.parse(JSON.stringify(body)))), request)
    }
  )

  it.prop(
    "an answer that the wire can say comes back as it was",
    [Answer, Schema.Literals(["stop", "length", "tool_calls", "content_filter"])],
    ([answer, reason]) => {
      const content =
        turnsOf({ ...answer, texts: [] })[0]?.content.map((part) =>
          part.type === "tool_call" && part.arguments === "" ? copyOf(part, { arguments: "{}" }) : part
        ).filter((part) => part.type !== "refusal" || part.text !== "") ?? []
      const called = content.some(({ type }) => type === "tool_call")
      const finishReason = reason === "stop" && called ? "tool_calls" : reason
      const body = codec.encodeResponse({ id: "r", model: "m", created: 1, content, finishReason }, {
        model: "m",
        messages: [{ role: "user", content: [] }]
      })
      const text = JSON.stringify(body)
      const again = ok(
        codec.decodeResponse(text, JSON.parse(text), callOf({ model: "m", messages: [{ role: "user", content: [] }] }))
      )
      assert.deepStrictEqual(again.content, content)
      assert.strictEqual(again.finishReason, finishReason)
    }
  )

  const Piece = Schema.Struct({
    text: Schema.String,
    reasoning: Schema.String,
    arguments: Schema.String,
    call: Schema.Literals([0, 1, 2])
  })
  it.prop(
    "a stream that is cut into any pieces says the same, translated or not",
    [Schema.Array(Piece)],
    ([pieces]) => {
      const named = new Set<number>()
      const events = pieces.map((piece) => {
        const begins = !named.has(piece.call)
        named.add(piece.call)
        return {
          id: "c",
          model: "m",
          created: 1,
          choices: [{
            index: 0,
            delta: {
              reasoning_content: piece.reasoning,
              content: piece.text,
              tool_calls: [{
                index: piece.call,
                ...(begins ? { id: `call_${piece.call}` } : {}),
                function: { ...(begins ? { name: `f${piece.call}` } : {}), arguments: piece.arguments }
              }]
            },
            finish_reason: null
          }]
        }
      })
      const end = {
        id: "c",
        model: "m",
        created: 1,
        choices: [{ index: 0, delta: {}, finish_reason: "stop" }],
        usage: { prompt_tokens: 3, completion_tokens: 4 }
      }
      const chunks = ok(decodeStream([...events, end, "[DONE]"]))
      const said = gather(chunks)
      assert.strictEqual(said.text, pieces.map(({ text }) => text).join(""))
      assert.strictEqual(said.reasoning, pieces.map(({ reasoning }) => reasoning).join(""))
      const order = Array.from(named)
      assert.deepStrictEqual(
        said.calls,
        order.map((call) => ({
          id: `call_${call}`,
          name: `f${call}`,
          arguments: pieces.filter((piece) => piece.call === call).map((piece) => piece.arguments).join("")
        }))
      )
      const request: ChatRequest = {
        model: "m",
        messages: [{ role: "user", content: [] }],
        extensions: { openai: { stream_options: { include_usage: true } } }
      }
      const verbatim = codec.streamEncoder(request)
      const handedOn = ok(decodeStream(dataOf(written(verbatim, chunks) + verbatim.end())))
      assert.deepStrictEqual(gather(handedOn), said)
      const anew = codec.streamEncoder(request)
      const translated = ok(decodeStream(dataOf(written(anew, chunks.map((chunk) => copyOf(chunk))) + anew.end())))
      const filled = said.calls.map((call) => call.arguments === "" ? { ...call, arguments: "{}" } : call)
      assert.deepStrictEqual(gather(translated), { ...said, calls: filled })
      assert.deepStrictEqual(usageOf(translated), usageOf(chunks))
    }
  )
})
