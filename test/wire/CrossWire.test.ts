/** All wires together: what one wire's decoder read, another one's encoder writes, whole or as a stream. */
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse, FinishReason, PartDelta } from "../../src/sdk/Chat.ts"
import { type Part, textOf } from "../../src/sdk/Content.ts"
import { GatewayError, InternalError } from "../../src/sdk/GatewayError.ts"
import { totalInput, totalOutput, type Usage } from "../../src/sdk/Usage.ts"
import { callOf, checkGrammar, codecs, looksComplete, ok, plain, read, type WireName, wires, written } from "./Wires.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

const Words = Schema.String.check(Schema.isMaxLength(12))
const Small = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100_000 }))
const Drawn = Schema.Struct({
  parts: Schema.Array(Schema.Struct({
    kind: Schema.Literals(["text", "reasoning", "call", "empty call"]),
    text: Words,
    input: Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Finite, Schema.Boolean]))
  })).check(Schema.isMaxLength(6)),
  reason: Schema.Literals(["stop", "length", "content_filter"]),
  input: Small,
  output: Small,
  read: Small,
  write: Small,
  /** How the pieces of calls and the rest are mixed. */
  order: Schema.Array(Small).check(Schema.isMaxLength(40))
})

const partOf = (drawn: (typeof Drawn.Type)["parts"][number], index: number): Part => {
  switch (drawn.kind) {
    case "text":
      return { type: "text", text: `t${drawn.text}` }
    case "reasoning":
      return { type: "reasoning", text: `r${drawn.text}` }
    case "call":
      return { type: "tool_call", id: `call_${index}`, name: `f${index}`, arguments: JSON.stringify(drawn.input) }
    default:
      return { type: "tool_call", id: `call_${index}`, name: `f${index}`, arguments: "{}" }
  }
}

const finishOf = (drawn: typeof Drawn.Type, content: ReadonlyArray<Part>): FinishReason =>
  drawn.reason === "stop" && content.some(({ type }) => type === "tool_call") ? "tool_calls" : drawn.reason

const usageOf = (drawn: typeof Drawn.Type): Usage => ({
  inputTokens: drawn.input + 1,
  outputTokens: drawn.output + 1,
  cacheReadTokens: drawn.read,
  cacheWrite5mTokens: drawn.write
})

const responseOf = (drawn: typeof Drawn.Type): ChatResponse => {
  const content = drawn.parts.map(partOf)
  return { id: "x", model: "m", content, finishReason: finishOf(drawn, content), usage: usageOf(drawn) }
}

/** What every wire can say of an answer: the texts, the thinking and the calls, each kind in its own order. */
const said = (content: ReadonlyArray<Part>) => ({
  text: textOf(content),
  reasoning: content.flatMap((part) => part.type === "reasoning" ? [part.text ?? ""] : []).join(""),
  calls: content.flatMap((part) =>
    part.type === "tool_call"
      ? [{ id: part.id, name: part.name, input: JSON.parse(part.arguments === "" ? "{}" : part.arguments) as unknown }]
      : []
  )
})

const totals = (usage: Usage | undefined) => usage === undefined ? undefined : [totalInput(usage), totalOutput(usage)]

const throughJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

describe("a whole answer of any provider", () => {
  it.prop("says the same to callers of every dialect, with the same totals", [Drawn], ([drawn]) => {
    const response = responseOf(drawn)
    for (const wire of wires) {
      const json = throughJson(codecs[wire].encodeResponse(response, plain))
      const again = ok(codecs[wire].decodeResponse(JSON.stringify(json), json, callOf(plain, wire)))
      assert.deepStrictEqual(said(again.content), said(response.content), wire)
      assert.strictEqual(again.finishReason, response.finishReason, wire)
      assert.deepStrictEqual(totals(again.usage), totals(response.usage), wire)
    }
  })

  it.prop("comes through two wires one after the other as through one", [Drawn], ([drawn]) => {
    const response = responseOf(drawn)
    for (const first of wires) {
      const json = throughJson(codecs[first].encodeResponse(response, plain))
      const upstream = ok(codecs[first].decodeResponse(JSON.stringify(json), json, callOf(plain, first)))
      for (const second of wires) {
        const translated = throughJson(codecs[second].encodeResponse(upstream, plain))
        const seen = ok(codecs[second].decodeResponse("", translated, callOf(plain, second)))
        assert.deepStrictEqual(said(seen.content), said(response.content), `${first} to ${second}`)
        assert.strictEqual(seen.finishReason, response.finishReason, `${first} to ${second}`)
        assert.deepStrictEqual(totals(seen.usage), totals(response.usage), `${first} to ${second}`)
      }
    }
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/** A part as it streams, in pieces of one character. */
const deltasOf = (part: Part, index: number): Array<PartDelta> => {
  switch (part.type) {
    case "text":
      return Array.from(part.text, (text): PartDelta => ({ type: "text", index, text }))
    case "reasoning":
      return Array.from(part.text ?? "", (text): PartDelta => ({ type: "reasoning", index, text }))
    case "tool_call":
      return [
        { type: "tool_call", index, id: part.id, name: part.name },
        ...Array.from(part.arguments, (json): PartDelta => ({ type: "tool_call", index, arguments: json }))
      ]
    default:
      return []
  }
}

/** The pieces of all parts, each part's in order, the parts mixed as OpenAI mixes parallel calls. */
const mixed = (queues: ReadonlyArray<Array<PartDelta>>, order: ReadonlyArray<number>): ReadonlyArray<PartDelta> => {
  const pieces: Array<PartDelta> = []
  for (let turn = 0; queues.some((queue) => queue.length > 0); turn += 1) {
    const waiting = queues.filter((queue) => queue.length > 0)
    const next = waiting[(order[turn % Math.max(order.length, 1)] ?? 0) % waiting.length]?.shift()
    if (next !== undefined) pieces.push(next)
  }
  return pieces
}

const chunksOf = (drawn: typeof Drawn.Type, pieces: ReadonlyArray<PartDelta>): ReadonlyArray<ChatChunk> => {
  const { content: _content, finishReason, id, model, usage } = responseOf(drawn)
  const head = { id, model, created: 1 }
  return [
    { ...head, delta: [] },
    ...pieces.map((piece): ChatChunk => ({ ...head, delta: [piece] })),
    { ...head, delta: [], finishReason },
    { ...head, delta: [], ...(usage === undefined ? {} : { usage }) }
  ]
}

const joined = (chunks: ReadonlyArray<ChatChunk>) => {
  let text = ""
  let reasoning = ""
  const calls = new Map<number, { id: string; name: string; json: string }>()
  let finishReason: FinishReason | undefined
  let usage: Usage | undefined
  for (const chunk of chunks) {
    finishReason = chunk.finishReason ?? finishReason
    usage = chunk.usage ?? usage
    for (const delta of chunk.delta) {
      if (delta.type === "text") text += delta.text
      else if (delta.type === "reasoning") reasoning += delta.text ?? ""
      else if (delta.type === "tool_call") {
        const call = calls.get(delta.index) ?? { id: "", name: "", json: "" }
        calls.set(delta.index, {
          id: delta.id ?? call.id,
          name: delta.name ?? call.name,
          json: call.json + (delta.arguments ?? "")
        })
      }
    }
  }
  return {
    said: {
      text,
      reasoning,
      calls: Array.from(calls.values(), ({ id, json, name }) => ({ id, name, input: JSON.parse(json) as unknown }))
    },
    finishReason,
    totals: totals(usage)
  }
}

const byId = <A extends { readonly calls: ReadonlyArray<{ readonly id: string }> }>(spoken: A) => ({
  ...spoken,
  calls: spoken.calls.toSorted((a, b) => a.id < b.id ? -1 : 1)
})

/** Only text and thinking of one kind may be told apart by position alone, so those are not mixed among themselves. */
const inOrder = (content: ReadonlyArray<Part>): ReadonlyArray<Array<PartDelta>> => {
  const line = content.flatMap((part, index) => part.type === "tool_call" ? [] : deltasOf(part, index))
  const calls = content.map((part, index) => part.type === "tool_call" ? deltasOf(part, index) : [])
  return [line, ...calls]
}

describe("a stream of any provider", () => {
  it.prop("keeps the grammar of every dialect and says the same, however it is mixed and cut", [
    Drawn,
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 }))
  ], ([drawn, size]) => {
    const response = responseOf(drawn)
    const chunks = chunksOf(drawn, mixed(inOrder(response.content), drawn.order))
    for (const wire of wires) {
      const text = written(wire, chunks)
      checkGrammar[wire](text)
      const { chunks: again, failure } = read(wire, text, size)
      assert.isUndefined(failure, wire)
      const got = joined(again)
      assert.deepStrictEqual(byId(got.said), byId(said(response.content)), wire)
      assert.strictEqual(got.finishReason, response.finishReason, wire)
      assert.deepStrictEqual(got.totals, totals(response.usage), wire)
    }
  })

  it.prop("is translated from any wire to any other", [Drawn], ([drawn]) => {
    const response = responseOf(drawn)
    const pieces = response.content.flatMap(deltasOf)
    for (const first of wires) {
      const upstream = read(first, written(first, chunksOf(drawn, pieces)))
      assert.isUndefined(upstream.failure, first)
      for (const second of wires) {
        const text = written(second, upstream.chunks)
        checkGrammar[second](text)
        const seen = joined(read(second, text).chunks)
        assert.deepStrictEqual(seen.said, said(response.content), `${first} to ${second}`)
        assert.strictEqual(seen.finishReason, response.finishReason, `${first} to ${second}`)
        assert.deepStrictEqual(seen.totals, totals(response.usage), `${first} to ${second}`)
      }
    }
  })

  it.prop("keeps the grammar where an interceptor rewrites some chunks and not others", [Drawn], ([drawn]) => {
    const response = responseOf(drawn)
    for (const wire of wires) {
      const upstream = read(wire, written(wire, chunksOf(drawn, response.content.flatMap(deltasOf))))
      // A copy forgets its original, and has to be written anew.
      const some = upstream.chunks.map((chunk, index) =>
        (drawn.order[index] ?? 0) % 2 === 0 ? chunk : Object.assign({}, chunk)
      )
      const text = written(wire, some)
      checkGrammar[wire](text)
      assert.deepStrictEqual(joined(read(wire, text).chunks).said, said(response.content), wire)
    }
  })

  it.prop("that fails at any point never looks complete", [Drawn, Small], ([drawn, cut]) => {
    const chunks = chunksOf(drawn, responseOf(drawn).content.flatMap(deltasOf))
    const error = new GatewayError({ reason: new InternalError({ message: "broken" }) })
    for (const wire of wires) {
      const encoder = codecs[wire].streamEncoder(plain)
      let text = ""
      for (const chunk of chunks.slice(0, cut % (chunks.length + 1))) text += encoder.push(chunk)
      text += encoder.error(error)
      assert.isFalse(looksComplete[wire](text), wire)
      assert.isDefined(read(wire, text).failure, wire)
    }
  })

  it("finishes once for each choice, and where the provider told no reason", () => {
    const head = { id: "x", model: "m" }
    const hi: PartDelta = { type: "text", index: 0, text: "hi" }
    const streams: ReadonlyArray<ReadonlyArray<ChatChunk>> = [
      [{ ...head, delta: [hi], finishReason: "stop" }, { ...head, delta: [], finishReason: "stop" }],
      [{ ...head, delta: [hi] }],
      [{ ...head, delta: [hi] }, { ...head, choice: 1, delta: [hi] }, {
        ...head,
        choice: 1,
        delta: [],
        finishReason: "stop"
      }]
    ]
    for (const chunks of streams) for (const wire of wires) checkGrammar[wire](written(wire, chunks))
  })

  it("never mixes the choices of several for a wire that has one", () => {
    const head = { id: "x", model: "m" }
    const piece = (choice: number, text: string): ChatChunk => ({
      ...head,
      choice,
      delta: [{ type: "text", index: 0, text }]
    })
    const chunks: ReadonlyArray<ChatChunk> = [
      piece(1, "B1"),
      piece(0, "A1"),
      piece(2, "C1"),
      piece(1, "B2"),
      piece(0, "A2"),
      { ...head, choice: 1, delta: [], finishReason: "length" },
      { ...head, choice: 0, delta: [], finishReason: "stop" },
      { ...head, choice: 2, delta: [], finishReason: "length", usage: { inputTokens: 3, outputTokens: 9 } }
    ]
    for (const wire of ["anthropic", "ollama"] as const) {
      const text = written(wire, chunks)
      checkGrammar[wire](text)
      const seen = joined(read(wire, text).chunks)
      assert.strictEqual(seen.said.text, "A1A2", wire)
      assert.strictEqual(seen.finishReason, "stop", wire)
      assert.deepStrictEqual(seen.totals, [3, 9], wire)
    }
  })

  it("refuses several answers to providers that give one, by the parameter's name", () => {
    const request: ChatRequest = { ...plain, n: 2 }
    for (const wire of ["anthropic", "ollama"] as const) {
      const refused = codecs[wire].encodeRequest(callOf(request, wire), false)
      assert.strictEqual(Result.isFailure(refused) ? refused.failure.field : "taken", "n", wire)
    }
  })

  it("tells an id and a name once, however often the provider repeats them", () => {
    const head = { id: "x", model: "m" }
    const chunk = (json: string): ChatChunk => ({
      ...head,
      delta: [{ type: "tool_call", index: 0, id: "call_1", name: "f", arguments: json }]
    })
    const chunks: ReadonlyArray<ChatChunk> = [chunk("{\"a\""), chunk(":1}"), {
      ...head,
      delta: [],
      finishReason: "tool_calls"
    }]
    for (const wire of wires) {
      const text = written(wire, chunks)
      checkGrammar[wire](text)
      assert.deepStrictEqual(joined(read(wire, text).chunks).said.calls, [{ id: "call_1", name: "f", input: { a: 1 } }])
    }
  })

  it("hands text that comes between the pieces of a call on behind the call, and loses none of either", () => {
    const head = { id: "x", model: "m" }
    const deltas: ReadonlyArray<PartDelta> = [
      { type: "tool_call", index: 0, id: "call_1", name: "f", arguments: "{\"a\":" },
      { type: "text", index: 1, text: "meanwhile" },
      { type: "tool_call", index: 0, arguments: "1}" },
      { type: "text", index: 1, text: " more" }
    ]
    const chunks: ReadonlyArray<ChatChunk> = [
      ...deltas.map((delta): ChatChunk => ({ id: "x", model: "m", delta: [delta] })),
      { ...head, delta: [], finishReason: "tool_calls" }
    ]
    for (const wire of wires) {
      const seen = joined(read(wire, written(wire, chunks)).chunks)
      assert.deepStrictEqual(seen.said.calls, [{ id: "call_1", name: "f", input: { a: 1 } }], wire)
      assert.strictEqual(seen.said.text, "meanwhile more", wire)
    }
  })
})

const cutOff = "{\"city\":\"Par"

describe("arguments that the end of the answer cut off", () => {
  const response: ChatResponse = {
    id: "x",
    model: "m",
    content: [{ type: "tool_call", id: "call_1", name: "f", arguments: cutOff }],
    finishReason: "length"
  }
  const expected: Readonly<Record<WireName, string>> = {
    openai: cutOff,
    anthropic: JSON.stringify({ _raw: cutOff }),
    ollama: JSON.stringify({ _raw: cutOff })
  }
  it.each(wires)("are no empty call for callers of %s", (wire) => {
    const json = throughJson(codecs[wire].encodeResponse(response, plain))
    const again = ok(codecs[wire].decodeResponse("", json, callOf(plain, wire)))
    assert.deepStrictEqual(again.content.map((part) => part.type === "tool_call" ? part.arguments : part), [
      expected[wire]
    ])
    assert.strictEqual(again.finishReason, "length")
  })
})
