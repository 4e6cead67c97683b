/** `/api/generate`: its requests and answers on both sides, and where they may not go. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { ChatChunk, ChatRequest, ChatResponse } from "../../../src/sdk/Chat.ts"
import type { Part } from "../../../src/sdk/Content.ts"
import { ollamaChat, ollamaGenerate } from "../../../src/wire/ollama/OllamaChat.ts"
import { recordings } from "../../fixtures/Recordings.ts"
import { codecs } from "../Wires.ts"
import { asking, callOf, decodeBytes, failure, joinChunks, success } from "./answers.ts"

const png = "iVBORw0KGgoAAAANSUhEUg=="
const decode = (body: object): ChatRequest => success(ollamaGenerate.decodeRequest(body))
const full = {
  model: "m",
  prompt: "Hi",
  system: "Be brief.",
  images: [png],
  stream: false,
  format: "json",
  think: "low",
  raw: true,
  template: "{{ .Prompt }}",
  context: [1, 2],
  keep_alive: "5m",
  width: 512,
  options: { temperature: 0.5, num_predict: -1, num_ctx: 2048 }
}

describe("decodeRequest", () => {
  it("is a chat of one turn, with what only this operation has under a name of its own", () => {
    assert.deepEqual(decode(full), {
      model: "m",
      messages: [
        { role: "system", content: [{ type: "text", text: "Be brief." }] },
        {
          role: "user",
          content: [
            { type: "text", text: "Hi" },
            { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
          ]
        }
      ],
      stream: false,
      responseSchema: { type: "json_object" },
      reasoning: { effort: "low" },
      temperature: 0.5,
      extensions: {
        ollama: { keep_alive: "5m", width: 512, options: { num_predict: -1, num_ctx: 2048 } },
        "ollama-generate": { raw: true, template: "{{ .Prompt }}", context: [1, 2] }
      }
    })
  })

  it("takes Go's empty values for none, and streams unless told not to", () => {
    const empty = { system: "", template: "", context: [], raw: false, images: [], suffix: "", format: "", options: {} }
    assert.deepEqual(decode({ model: "m", prompt: "Hi", ...empty, keep_alive: null }), {
      model: "m",
      messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
      stream: true,
      extensions: { "ollama-generate": {} }
    })
  })

  it("names every field that is wrong", () => {
    const error = failure(ollamaGenerate.decodeRequest({
      prompt: ["Hi"],
      system: 1,
      suffix: "}",
      images: ["data:image/png;base64,AAAA", "***"],
      raw: "yes",
      template: 1,
      context: ["a"],
      options: []
    }))
    assert.deepStrictEqual(error.issues?.map(({ path }) => path).toSorted(), [
      "context",
      "images[0]",
      "images[1]",
      "model",
      "options",
      "prompt",
      "raw",
      "suffix",
      "system",
      "template"
    ])
    assert.strictEqual(failure(ollamaGenerate.decodeRequest([])).issues?.[0]?.path, "")
  })
})

describe("encodeRequest", () => {
  const encode = (request: ChatRequest) => ollamaChat.encodeRequest(callOf(request), false)

  it("writes to /api/generate what came there", () => {
    const { body, dropped, path } = success(encode(decode(full)))
    assert.deepStrictEqual<unknown>(body, full)
    assert.deepStrictEqual(dropped, [])
    assert.strictEqual(path, "/api/generate")
  })

  it("writes what was added to the instructions, and what was changed in the prompt", () => {
    const request = decode({ model: "m", prompt: "my key is 7", system: "Be brief.", stream: false })
    const [system] = request.messages
    const changed: ChatRequest = {
      ...request,
      messages: [
        { role: "system", content: [{ type: "text", text: "Be kind." }] },
        system,
        { role: "user", content: [{ type: "text", text: "my key is ***" }] }
      ]
    }
    assert.deepStrictEqual<unknown>(success(encode(changed)).body, {
      model: "m",
      prompt: "my key is ***",
      system: "Be kind.\nBe brief.",
      stream: false
    })
  })

  it("goes to the chat where it is no single turn any more, unless that would lose something", () => {
    const more = (body: object): ChatRequest => {
      const request = decode(body)
      const [first, ...others] = request.messages
      return { ...request, messages: [first, ...others, { role: "user", content: [{ type: "text", text: "Go on." }] }] }
    }
    const { body, path } = success(encode(more({ model: "m", prompt: "Hi" })))
    assert.isUndefined(path)
    assert.deepStrictEqual(body["messages"], [{ role: "user", content: "Hi" }, { role: "user", content: "Go on." }])
    assert.strictEqual(failure(encode(more({ model: "m", prompt: "Hi", raw: true }))).field, "raw")
  })

  it.each(["openai", "anthropic"] as const)("refuses elsewhere what would change the question: %s", (wire) => {
    for (const field of [{ raw: true }, { template: "x" }, { context: [1] }]) {
      const request = decode({ model: "m", prompt: "Hi", ...field })
      const refused = failure(codecs[wire].encodeRequest(callOf(request), false))
      assert.strictEqual(refused.field, Object.keys(field)[0])
    }
    const plain = success(codecs[wire].encodeRequest(callOf(decode({ model: "m", prompt: "Hi" })), false))
    assert.deepStrictEqual(plain.dropped, [])
  })

  it("a chat cannot get there by a field of its body", () => {
    const request = success(ollamaChat.decodeRequest({
      model: "m",
      messages: [{ role: "user", content: "Hi" }],
      "ollama-generate": {},
      raw: true
    }))
    const { body, path } = success(encode(request))
    assert.isUndefined(path)
    assert.strictEqual(body["raw"], true)
  })
})

describe("answers", () => {
  const call = callOf(decode({ model: "m", prompt: "Hi" }))
  const line = (more: object): string =>
    JSON.stringify({ model: "m", created_at: "2026-08-07T06:08:09.3Z", response: "", done: false, ...more })

  it("are read in their own form, and only in that", () => {
    const body = {
      model: "m",
      created_at: "2026-08-07T06:08:09.3Z",
      response: "Hi",
      thinking: "Hm",
      done: true,
      done_reason: "stop",
      context: [1],
      prompt_eval_count: 3,
      eval_count: 4,
      total_duration: 5
    }
    const read = success(ollamaChat.decodeResponse(JSON.stringify(body), body, call))
    assert.deepEqual(read.content, [
      { type: "reasoning", text: "Hm", wire: "ollama" },
      { type: "text", text: "Hi" }
    ])
    assert.deepEqual(read.usage, { inputTokens: 3, outputTokens: 4 })
    assert.deepEqual(read.extensions, { ollama: { context: [1], total_duration: 5 } })
    assert.strictEqual<unknown>(ollamaGenerate.encodeResponse(read, asking("Hi", { model: "m" })), body)
    const chat = { ...body, response: undefined, message: { role: "assistant", content: "Hi" } }
    assert.strictEqual(failure(ollamaChat.decodeResponse("", chat, call)).kind, "protocol")
    assert.strictEqual(failure(ollamaChat.decodeResponse("", body, callOf(asking("Hi")))).kind, "protocol")
  })

  it("are not handed on in the other's form", () => {
    const body = { model: "llama3", message: { role: "assistant", content: "Hi" }, done: true, done_reason: "stop" }
    const read = success(ollamaChat.decodeResponse(JSON.stringify(body), body, callOf(asking("Hi"))))
    const written = ollamaGenerate.encodeResponse(read, asking("Hi"))
    assert.strictEqual(written["response"], "Hi")
    assert.isFalse("message" in written)
  })

  it("are relayed line by line", () => {
    const lines = [
      line({ thinking: "Hm" }),
      line({ response: "Hi" }),
      line({ done: true, done_reason: "stop", context: [1], eval_count: 4 })
    ]
    const bytes = new TextEncoder().encode(lines.join("\n"))
    const chunks = success(decodeBytes(ollamaChat.streamDecoder(call), bytes, 7))
    const encoder = ollamaGenerate.streamEncoder(asking("Hi", { model: "m" }))
    assert.strictEqual(chunks.map(encoder.push).join("") + encoder.end(), `${lines.join("\n")}\n`)
  })

  it("have room for an image", () => {
    const image: Part = { type: "image", source: { type: "base64", mediaType: "image/png", data: png } }
    const response: ChatResponse = { id: "", model: "m", content: [image], finishReason: "stop" }
    const body = ollamaGenerate.encodeResponse(response, asking("Hi"))
    assert.strictEqual(body["image"], png)
    assert.deepEqual(success(ollamaChat.decodeResponse("", body, call)).content, [image])
    const encoder = ollamaGenerate.streamEncoder(asking("Hi"))
    const written = encoder.push({ id: "", model: "m", delta: [{ type: "part", index: 0, part: image }] })
    assert.include(written, `"response":"","image":"${png}"`)
  })
})

describe("laws", () => {
  const Text = Schema.NonEmptyString
  const Count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 }))

  it.prop(
    "a request is the same after encoding and decoding",
    [Schema.Struct({
      prompt: Text,
      system: Schema.optionalKey(Text),
      stream: Schema.Boolean,
      raw: Schema.optionalKey(Schema.Literal(true)),
      template: Schema.optionalKey(Text),
      context: Schema.optionalKey(Schema.NonEmptyArray(Count)),
      keep_alive: Schema.optionalKey(Text),
      think: Schema.optionalKey(Schema.Literals([true, false, "low", "high"]))
    })],
    ([fields]) => {
      const request = decode({ model: "m", options: { num_ctx: 4096 }, ...fields })
      const { body, dropped } = success(ollamaChat.encodeRequest(callOf(request), fields.stream))
      assert.deepStrictEqual(dropped, [])
      assert.deepStrictEqual(success(ollamaGenerate.decodeRequest(JSON.parse(JSON.stringify(body)))), request)
    }
  )

  it.prop(
    "a stream is the same answer after encoding and decoding",
    [
      Schema.Array(Schema.Struct({ type: Schema.Literals(["text", "reasoning"]), text: Text })),
      Count,
      Count,
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 40 }))
    ],
    ([pieces, input, output, size]) => {
      const encoder = ollamaGenerate.streamEncoder(asking("hi"))
      const usage = { inputTokens: input, outputTokens: output }
      const chunk = (delta: ChatChunk["delta"], more: Partial<ChatChunk> = {}): ChatChunk =>
        Object.assign({ id: "x", model: "m", created: 1, delta }, more)
      const written = pieces.map((piece, index) => encoder.push(chunk([{ ...piece, index }]))).join("") +
        encoder.push(chunk([], { finishReason: "stop" })) + encoder.push(chunk([], { usage })) + encoder.end()
      const call = callOf(decode({ model: "m", prompt: "hi" }))
      const joined = joinChunks(
        success(decodeBytes(ollamaChat.streamDecoder(call), new TextEncoder().encode(written), size))
      )
      const said = (type: "text" | "reasoning") =>
        pieces.flatMap((piece) => piece.type === type ? [piece.text] : []).join("")
      const heard = (type: "text" | "reasoning") =>
        joined.content.flatMap((part) => part.type === type && "text" in part ? [part.text ?? ""] : []).join("")
      assert.strictEqual(heard("text"), said("text"))
      assert.strictEqual(heard("reasoning"), said("reasoning"))
      assert.deepStrictEqual(joined.usage, usage)
      assert.strictEqual(joined.finishReason, "stop")
    }
  )

  it.prop("decoding never throws, whatever the text is", [Schema.String, Schema.Unknown], ([text, json]) => {
    const call = callOf(decode({ model: "m", prompt: "hi" }))
    ollamaGenerate.decodeRequest(json)
    ollamaGenerate.decodeLoad(json)
    ollamaChat.decodeLoad(json)
    ollamaChat.decodeResponse(text, json, call)
    ollamaChat.streamDecoder(call).push(text, "")
  })
})

describe("a request to load", () => {
  it("asks nothing and names a model", () => {
    const load = { model: "m", unload: false }
    const unload = { model: "m", unload: true }
    assert.deepStrictEqual(ollamaChat.decodeLoad({ model: "m" }), load)
    assert.deepStrictEqual(ollamaChat.decodeLoad({ model: "m", messages: [], keep_alive: "5m" }), load)
    assert.deepStrictEqual(ollamaGenerate.decodeLoad({ model: "m", prompt: "", images: [png] }), load)
    for (const keepAlive of [0, "0", "0s", "0.0m", "-0s"]) {
      assert.deepStrictEqual(
        ollamaGenerate.decodeLoad({ model: "m", keep_alive: keepAlive }),
        unload,
        String(keepAlive)
      )
    }
    for (const keepAlive of [-1, 1, "10s", "0s5", "-1m", null, "never"]) {
      assert.deepStrictEqual(ollamaGenerate.decodeLoad({ model: "m", keep_alive: keepAlive }), load, String(keepAlive))
    }
  })

  it("is no other request", () => {
    assert.isUndefined(ollamaChat.decodeLoad({ model: "m", messages: [{ role: "user", content: "Hi" }] }))
    assert.isUndefined(ollamaChat.decodeLoad({ model: "m", messages: "Hi" }))
    assert.isUndefined(ollamaChat.decodeLoad({ messages: [] }))
    assert.isUndefined(ollamaGenerate.decodeLoad({ model: "m", prompt: "Hi" }))
    assert.isUndefined(ollamaGenerate.decodeLoad({ model: "m", prompt: 1 }))
    assert.isUndefined(ollamaGenerate.decodeLoad({ model: "m", suffix: "}" }))
    assert.isUndefined(ollamaGenerate.decodeLoad({ prompt: "" }))
    assert.isUndefined(ollamaGenerate.decodeLoad(null))
  })
})

const recorded = recordings("ollama", { path: "/api/generate" })

describe.skipIf(recorded.length === 0)("recorded traffic", () => {
  for (const recording of recorded) {
    it(`${recording.name}: what an independent reader read`, () => {
      const call = callOf(success(ollamaGenerate.decodeRequest(recording.request.body)))
      const { lines } = recording.response
      const { content, finishReason, usage } = lines === undefined
        ? success(ollamaChat.decodeResponse("", recording.response.body, call))
        : joinChunks(
          success(decodeBytes(ollamaChat.streamDecoder(call), new TextEncoder().encode(lines.join("\n")), 9))
        )
      const said = (type: Part["type"]) =>
        content.flatMap((part) => part.type === type && "text" in part ? [part.text ?? ""] : []).join("")
      assert.strictEqual(said("text"), recording.expect["text"])
      assert.strictEqual(said("reasoning"), recording.expect["thinking"] ?? "")
      assert.strictEqual(finishReason, recording.expect["done_reason"])
      assert.deepStrictEqual<unknown>(
        { prompt_eval_count: usage?.inputTokens, eval_count: usage?.outputTokens },
        recording.expect["usage"]
      )
    })
  }
})
