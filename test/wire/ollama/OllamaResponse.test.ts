import { assert, describe, it } from "@effect/vitest"
import type { ChatChunk, ChatResponse } from "../../../src/sdk/Chat.ts"
import { fail, InternalError, ModelNotFound, ProviderFailed } from "../../../src/sdk/GatewayError.ts"
import { sourceOf } from "../../../src/sdk/Wire.ts"
import { decodeShow, decodeTags, encodeShow, encodeTags, ollamaChat } from "../../../src/wire/ollama/OllamaChat.ts"
import { asking, callOf, failure, joinChunks, success } from "./answers.ts"

const question = asking("What is the weather?")
const read = (json: unknown, call = callOf(question)) => ollamaChat.decodeResponse(JSON.stringify(json), json, call)
const answer = (message: object, more: object = {}): object => ({
  model: "llama3",
  created_at: "2026-08-07T06:08:09.335586Z",
  message: { role: "assistant", content: "", ...message },
  done: true,
  done_reason: "stop",
  prompt_eval_count: 10,
  eval_count: 5,
  ...more
})
const line = (message: object, more: object = {}): string =>
  JSON.stringify({ model: "llama3", created_at: "2026-08-07T06:08:09.3Z", message, done: false, ...more })
const calling = (...names: ReadonlyArray<string>): object => ({
  role: "assistant",
  content: "",
  // Older servers: no ids, and every index is 0.
  tool_calls: names.map((name) => ({ function: { index: 0, name, arguments: { of: name } } }))
})
const last = line({ role: "assistant", content: "" }, {
  done: true,
  done_reason: "stop",
  prompt_eval_count: 10,
  eval_count: 5
})

describe("decodeResponse", () => {
  it("reads every kind of part, the counts, and what is Ollama's alone", () => {
    const response = success(read(answer(
      {
        thinking: "hm",
        content: "look",
        images: ["iVBORw0KGgoAAAANSUhEUg=="],
        tool_calls: [{ id: "call_1", function: { name: "add", arguments: { x: 1 } } }]
      },
      { total_duration: 12, remote_host: "ollama.com" }
    )))
    assert.match(response.id, /^ollama-[0-9a-f-]{36}$/)
    assert.deepEqual(Object.assign({}, response, { id: "" }), {
      id: "",
      model: "llama3",
      created: 1786082889,
      content: [
        { type: "reasoning", text: "hm", wire: "ollama" },
        { type: "text", text: "look" },
        { type: "image", source: { type: "base64", mediaType: "image/png", data: "iVBORw0KGgoAAAANSUhEUg==" } },
        { type: "tool_call", id: "call_1", name: "add", arguments: "{\"x\":1}" }
      ],
      finishReason: "tool_calls",
      nativeFinishReason: "stop",
      usage: { inputTokens: 10, outputTokens: 5 },
      extensions: { ollama: { total_duration: 12, remote_host: "ollama.com" } }
    })
  })

  it("makes up a distinct id for each call that has none", () => {
    const response = success(read(answer(calling("a", "a", "b"))))
    const ids = response.content.flatMap((part) => part.type === "tool_call" ? [part.id] : [])
    assert.strictEqual(new Set(ids).size, 3)
    for (const id of ids) assert.match(id, /^call_[0-9a-f-]{36}$/)
  })

  it("maps the reasons for the end", () => {
    const reason = (more: object, message: object = { content: "x" }) =>
      success(read(answer(message, more))).finishReason
    assert.strictEqual(reason({ done_reason: "stop" }), "stop")
    assert.strictEqual(reason({ done_reason: "length" }), "length")
    assert.strictEqual(reason({ done_reason: "load" }), "other")
    assert.strictEqual(reason({ done_reason: "unload" }), "other")
    assert.strictEqual(reason({ done_reason: undefined }), "stop")
    assert.strictEqual(reason({ done_reason: "stop" }, calling("a")), "tool_calls")
    assert.strictEqual(reason({ done_reason: "length" }, calling("a")), "length")
  })

  it("estimates a prompt whose count is missing because it was cached", () => {
    const call = callOf(asking("x".repeat(400)))
    assert.deepStrictEqual(success(read(answer({ content: "y" }, { prompt_eval_count: undefined }), call)).usage, {
      inputTokens: 104,
      outputTokens: 5,
      estimated: true
    })
    const missing = { prompt_eval_count: undefined, eval_count: undefined }
    assert.deepStrictEqual(success(read(answer({ content: "y".repeat(40) }, missing), call)).usage, {
      inputTokens: 104,
      outputTokens: 10,
      estimated: true
    })
    assert.deepStrictEqual(success(read(answer({}, { eval_count: undefined }), call)).usage, {
      inputTokens: 10,
      outputTokens: 0
    })
  })

  it("keeps arguments that a server sends as text", () => {
    const response = success(read(answer({ tool_calls: [{ function: { name: "a", arguments: "{\"x\": 1}" } }] })))
    assert.strictEqual(response.content[0]?.type === "tool_call" ? response.content[0].arguments : "", "{\"x\": 1}")
  })

  it("is a failure where the body holds an error, although the status was 200", () => {
    assert.deepStrictEqual(failure(read({ error: "the runner has crashed" })), {
      kind: "transient",
      message: "the runner has crashed"
    })
    const tooLong = "the prompt is longer than the context length currently available to the model"
    assert.strictEqual(failure(read({ error: tooLong })).kind, "contextLength")
    assert.strictEqual(failure(read({ error: { message: "slow down" }, status: 429 })).kind, "quota")
  })

  it("is a protocol failure where it is no answer", () => {
    const bodies: ReadonlyArray<unknown> = [
      null,
      [],
      "hi",
      {},
      { message: "hi" },
      answer({ content: "x" }, { done: false }),
      answer({ tool_calls: [{}] }),
      answer({ tool_calls: [{ function: { name: "" } }] })
    ]
    for (const body of bodies) assert.strictEqual(failure(read(body)).kind, "protocol")
  })
})

describe("streamDecoder", () => {
  const decoder = () => ollamaChat.streamDecoder(callOf(question))
  const run = (...lines: ReadonlyArray<string>) => {
    const reading = decoder()
    const chunks = lines.flatMap((data) => success(reading.push(data, "")))
    return joinChunks([...chunks, ...success(reading.end())])
  }

  it("gives each tool call a part of its own: several in a line, one a line, all with index 0", () => {
    for (const lines of [[line(calling("a", "b", "c"))], ["a", "b", "c"].map((name) => line(calling(name)))]) {
      const joined = run(...lines, last)
      const calls = joined.content.map((part) => part.type === "tool_call" ? [part.name, part.arguments] : [])
      assert.deepStrictEqual(calls, [["a", "{\"of\":\"a\"}"], ["b", "{\"of\":\"b\"}"], ["c", "{\"of\":\"c\"}"]])
      const ids = new Set(joined.content.map((part) => part.type === "tool_call" ? part.id : ""))
      assert.strictEqual(ids.size, 3)
      assert.strictEqual(joined.finishReason, "tool_calls")
    }
  })

  it("opens a new part whenever the kind changes", () => {
    const joined = run(
      line({ thinking: "a" }),
      line({ thinking: "b", content: "c" }),
      line({ content: "d" }),
      line(calling("f")),
      line({ content: "e" }),
      line({ thinking: "g" }),
      last
    )
    assert.deepStrictEqual(joined.content.map((part) => [part.type, "text" in part ? part.text : ""]), [
      ["reasoning", "ab"],
      ["text", "cd"],
      ["tool_call", ""],
      ["text", "e"],
      ["reasoning", "g"]
    ])
  })

  it("reads content in the last line, and a last line without a message", () => {
    assert.deepStrictEqual(run(line({ content: "all" }, { done: true })).content, [{ type: "text", text: "all" }])
    assert.strictEqual(run(line({ content: "a" }), "{\"done\":true}").finishReason, "stop")
  })

  it("estimates the prompt where the last line does not count it", () => {
    assert.deepStrictEqual(run(line({ content: "x" }), "{\"done\":true,\"eval_count\":3}").usage, {
      inputTokens: 9,
      outputTokens: 3,
      estimated: true
    })
  })

  it("ignores what follows the last line", () => {
    const reading = decoder()
    assert.strictEqual(success(reading.push(last, "")).length, 1)
    assert.isTrue(reading.isDone())
    assert.deepStrictEqual(success(reading.push(line({ content: "more" }), "")), [])
    assert.deepStrictEqual(success(reading.push("junk", "")), [])
    assert.deepStrictEqual(success(reading.end()), [])
  })

  it("fails at an error line, for good", () => {
    const reading = decoder()
    success(reading.push(line({ content: "a" }), ""))
    const error = failure(reading.push("{\"error\":\"an error was encountered while running the model\"}", ""))
    assert.deepStrictEqual(error, {
      kind: "transient",
      message: "an error was encountered while running the model"
    })
    assert.strictEqual(failure(reading.push(last, "")), error)
    assert.strictEqual(failure(reading.end()), error)
    assert.isFalse(reading.isDone())
  })

  it("fails at a line that is not Ollama's, and where no line says that it is done", () => {
    for (const data of ["{\"model\":\"llama3\",\"mess", "[]", "null", "{}", line({ tool_calls: [{ function: {} }] })]) {
      assert.strictEqual(failure(decoder().push(data, "")).kind, "protocol", data)
    }
    const reading = decoder()
    success(reading.push(line({ content: "a" }), ""))
    assert.strictEqual(failure(reading.end()).kind, "protocol")
    assert.strictEqual(failure(decoder().end()).kind, "protocol")
  })
})

describe("encodeResponse", () => {
  const response: ChatResponse = {
    id: "x",
    model: "gpt",
    created: 1786082889,
    content: [
      { type: "reasoning", text: "hm" },
      { type: "text", text: "a" },
      { type: "tool_call", id: "1", name: "f", arguments: "" },
      { type: "text", text: "b" },
      { type: "tool_call", id: "2", name: "g", arguments: "{\"cut" }
    ],
    finishReason: "tool_calls",
    usage: { inputTokens: 3, cacheReadTokens: 4, outputTokens: 5, reasoningTokens: 2 }
  }

  it("writes Ollama's body, with all tokens counted and unreadable arguments kept as text", () => {
    assert.deepStrictEqual(ollamaChat.encodeResponse(response, question), {
      model: "llama3",
      created_at: "2026-08-07T06:08:09.000Z",
      message: {
        role: "assistant",
        content: "ab",
        thinking: "hm",
        tool_calls: [
          { id: "1", function: { index: 0, name: "f", arguments: {} } },
          { id: "2", function: { index: 1, name: "g", arguments: { _raw: "{\"cut" } } }
        ]
      },
      done: true,
      done_reason: "stop",
      total_duration: 0,
      load_duration: 0,
      prompt_eval_duration: 0,
      eval_duration: 0,
      prompt_eval_count: 7,
      eval_count: 5
    })
  })

  it("hands on what came from Ollama, and writes anew what was changed since", () => {
    const original = answer({ content: "secret" }, { remote_model: "x" })
    const decoded = success(read(original))
    assert.strictEqual<unknown>(ollamaChat.encodeResponse(decoded, question), original)
    const changed: ChatResponse = Object.assign({}, decoded, { content: [{ type: "text", text: "***" } as const] })
    const written = JSON.stringify(ollamaChat.encodeResponse(changed, question))
    assert.notInclude(written, "secret")
    assert.include(written, "\"remote_model\":\"x\"")
  })

  it("names the model as it was asked for, whoever answered", () => {
    const asked = asking("hi", { model: "a::\"b\"" })
    const original = answer({ content: "fine" }, { remote_model: "x" })
    assert.deepStrictEqual<unknown>(ollamaChat.encodeResponse(success(read(original)), asked), {
      ...original,
      model: "a::\"b\""
    })
    assert.strictEqual(ollamaChat.encodeResponse(response, asked)["model"], "a::\"b\"")
  })

  it("tells in ns how long it took", () => {
    const timing = { total: 1500.25, firstContent: 500 }
    assert.deepInclude(ollamaChat.encodeResponse(response, question, timing), {
      total_duration: 1_500_250_000,
      load_duration: 0,
      prompt_eval_duration: 500_000_000,
      eval_duration: 1_000_250_000
    })
  })
})

describe("streamEncoder", () => {
  const chunk = (delta: ChatChunk["delta"], more: Partial<ChatChunk> = {}): ChatChunk => ({
    id: "x",
    model: "gpt",
    created: 1786082889,
    delta,
    ...more
  })
  const head = "{\"model\":\"llama3\",\"created_at\":\"2026-08-07T06:08:09.000Z\","
  const error = fail(new InternalError({ message: "broke" }))

  it("writes a line for each piece, calls whole before the end, and the end when it is told", () => {
    const encoder = ollamaChat.streamEncoder(question)
    assert.strictEqual(encoder.push(chunk([])), "")
    assert.strictEqual(
      encoder.push(chunk([{ type: "reasoning", index: 0, text: "hm" }])),
      `${head}"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n`
    )
    assert.strictEqual(
      encoder.push(chunk([{ type: "text", index: 1, text: "a\n" }])),
      `${head}"message":{"role":"assistant","content":"a\\n"},"done":false}\n`
    )
    assert.strictEqual(encoder.push(chunk([{ type: "tool_call", index: 2, id: "1", name: "f" }])), "")
    assert.strictEqual(encoder.push(chunk([{ type: "tool_call", index: 3, id: "2", name: "g" }])), "")
    assert.strictEqual(encoder.push(chunk([{ type: "tool_call", index: 2, arguments: "{\"x\"" }])), "")
    assert.strictEqual(encoder.push(chunk([{ type: "tool_call", index: 2, arguments: ":1}" }])), "")
    assert.strictEqual(
      encoder.push(chunk([], { finishReason: "tool_calls" })),
      `${head}"message":{"role":"assistant","content":"","tool_calls":[` +
        "{\"id\":\"1\",\"function\":{\"index\":0,\"name\":\"f\",\"arguments\":{\"x\":1}}}," +
        "{\"id\":\"2\",\"function\":{\"index\":1,\"name\":\"g\",\"arguments\":{}}}]},\"done\":false}\n"
    )
    assert.strictEqual(encoder.push(chunk([], { usage: { inputTokens: 2, outputTokens: 3 } })), "")
    assert.strictEqual(
      encoder.end(),
      `${head}"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",` +
        "\"total_duration\":0,\"load_duration\":0,\"prompt_eval_duration\":0,\"eval_duration\":0," +
        "\"prompt_eval_count\":2,\"eval_count\":3}\n"
    )
  })

  it("hands arguments that were cut off on as text, never as an empty call", () => {
    const encoder = ollamaChat.streamEncoder(question)
    encoder.push(chunk([{ type: "tool_call", index: 0, id: "1", name: "f", arguments: "{\"x\": \"ab" }]))
    const written = encoder.push(chunk([], { finishReason: "length" })) + encoder.end()
    assert.include(written, "\"arguments\":{\"_raw\":\"{\\\"x\\\": \\\"ab\"}")
    assert.include(written, "\"done_reason\":\"length\"")
  })

  it("ends a broken stream with an error and no line that is done, even after the finish reason", () => {
    const encoder = ollamaChat.streamEncoder(question)
    const reading = ollamaChat.streamDecoder(callOf(question))
    let written = ""
    for (const data of [line({ content: "a" }), last]) {
      for (const read of success(reading.push(data, ""))) written += encoder.push(read)
    }
    written += encoder.error(error)
    assert.strictEqual(written, `${line({ content: "a" })}\n{"error":"broke"}\n`)
  })

  it("relays lines of Ollama's as they stood, and writes a changed one anew", () => {
    const encoder = ollamaChat.streamEncoder(question)
    const reading = ollamaChat.streamDecoder(callOf(question))
    const [first] = success(reading.push(line({ content: "secret", extra: 1 }), ""))
    const [second] = success(reading.push(line({ content: "fine", extra: 2 }), ""))
    assert.isDefined(first)
    assert.isDefined(second)
    const changed: ChatChunk = Object.assign({}, first, { delta: [{ type: "text", index: 0, text: "***" } as const] })
    assert.isUndefined(sourceOf(changed, "ollama"))
    assert.include(encoder.push(changed), "\"content\":\"***\"}")
    assert.strictEqual(encoder.push(second), `${line({ content: "fine", extra: 2 })}\n`)
  })

  it("tells the log probabilities that came over OpenAI's wire, each once", () => {
    const content = (token: string) => [{ token, logprob: -0.1, bytes: [1], top_logprobs: [] }]
    const beside = (token: string) => ({ openai: { choice: { logprobs: { content: content(token) } } } })
    const encoder = ollamaChat.streamEncoder(question)
    const written = encoder.push(chunk([{ type: "text", index: 0, text: "a" }], { extensions: beside("a") })) +
      encoder.push(chunk([{ type: "text", index: 0, text: "b" }])) +
      encoder.push(chunk([], { finishReason: "stop" })) + encoder.end()
    const lines = written.trim().split("\n").map((text): Record<string, unknown> => JSON.parse(text))
    assert.deepStrictEqual(lines.map((line) => line["logprobs"]), [content("a"), undefined, undefined])
    const response: ChatResponse = {
      id: "",
      model: "gpt",
      content: [{ type: "text", text: "a" }],
      finishReason: "stop",
      extensions: beside("a")
    }
    assert.deepStrictEqual(ollamaChat.encodeResponse(response, question)["logprobs"], content("a"))
  })

  it("relays lines under the model's name that was asked for, wherever the name stands in them", () => {
    const lines = [
      line({ content: "{\"model\":\"llama3\"" }),
      "{\"done\": false, \"message\": {\"content\": \"b\"}, \"model\": \"llama3\"}",
      "{\"model\" : \"llama3\",\"message\":{\"content\":\"c\"},\"done\":false}",
      "{\"message\":{\"content\":\"d\"},\"done\":false}",
      "{\"model\":\"other\",\"message\":{\"content\":\"e\"},\"done\":false}",
      last
    ]
    const encoder = ollamaChat.streamEncoder(asking("hi", { model: "route\n" }))
    const reading = ollamaChat.streamDecoder(callOf(question))
    let written = ""
    for (const data of lines) for (const read of success(reading.push(data, ""))) written += encoder.push(read)
    written += encoder.end()
    assert.deepStrictEqual(
      written.trim().split("\n").map((text): unknown => JSON.parse(text)),
      lines.map((text): unknown => Object.assign(JSON.parse(text), { model: "route\n" }))
    )
    assert.isTrue(written.startsWith(`{"model":"route\\n"${line({ content: "{\"model\":\"llama3\"" }).slice(17)}`))
  })

  it("keeps a silent connection open with lines that say nothing and are not the last", () => {
    const silent = ollamaChat.keepAlive("a\"b")
    assert.isTrue(silent.endsWith("}\n"))
    const { created_at: at, ...said } = JSON.parse(silent)
    assert.deepStrictEqual(said, { model: "a\"b", message: { role: "assistant", content: "" }, done: false })
    assert.isAbove(Date.parse(at), 0)
  })

  it("passes over further choices", () => {
    const encoder = ollamaChat.streamEncoder(question)
    assert.strictEqual(encoder.push(chunk([{ type: "text", index: 0, text: "other" }], { choice: 1 })), "")
  })
})

describe("errors", () => {
  const of = (status: number, error: string) => ollamaChat.decodeError(status, {}, JSON.stringify({ error }))

  it("are read by status and text", () => {
    assert.deepStrictEqual(of(404, "model 'llama9' not found"), {
      kind: "caller",
      message: "model 'llama9' not found",
      status: 404,
      code: "model_not_found"
    })
    assert.strictEqual(of(404, "model \"x\" not found, try pulling it first").code, "model_not_found")
    assert.isUndefined(of(404, "page not found").code)
    assert.deepStrictEqual(of(400, "\"llama3\" does not support tools"), {
      kind: "caller",
      message: "\"llama3\" does not support tools",
      status: 400,
      field: "tools"
    })
    assert.strictEqual(of(400, "invalid options: num_foo").kind, "caller")
    assert.strictEqual(of(401, "unauthorized").kind, "credential")
    assert.strictEqual(of(403, "cloud is disabled").kind, "credential")
    assert.strictEqual(of(500, "llama runner process has terminated").kind, "transient")
    assert.strictEqual(of(502, "upstream unreachable").kind, "transient")
    assert.strictEqual(of(503, "server busy, please try again. maximum pending requests exceeded").kind, "transient")
  })

  it("about the context length are that, whatever the status", () => {
    for (const status of [400, 500]) {
      assert.strictEqual(of(status, "the input length exceeds the context length").kind, "contextLength")
      assert.strictEqual(
        of(status, "the prompt is longer than the context length currently available").kind,
        "contextLength"
      )
      assert.strictEqual(of(status, "request (9000 tokens) exceeds the available context size").kind, "contextLength")
    }
    assert.strictEqual(of(429, "you exceed the context length quota").kind, "quota")
  })

  it("carry the wait and the request's id that the upstream told", () => {
    const headers = { "retry-after": "7", "x-request-id": "r1" }
    assert.deepStrictEqual(ollamaChat.decodeError(429, headers, "{\"error\":\"too many requests\"}"), {
      kind: "quota",
      message: "too many requests",
      status: 429,
      retryAfterMs: 7000,
      upstreamRequestId: "r1"
    })
  })

  it("that are not Ollama's are told by their status, bounded", () => {
    const page = ollamaChat.decodeError(502, {}, "<html><body>nginx secret</body></html>")
    assert.strictEqual(page.kind, "transient")
    assert.notInclude(page.message, "secret")
    assert.include(ollamaChat.decodeError(400, {}, "").message, "400")
    assert.include(ollamaChat.decodeError(500, {}, "[1]").message, "500")
    assert.strictEqual(ollamaChat.decodeError(400, {}, "404 page not found").message, "404 page not found")
    assert.isBelow(of(400, "x".repeat(10_000)).message.length, 500)
  })

  it("are written as a string with the gateway's status", () => {
    const error = fail(new ModelNotFound({ message: "no model llama9", model: "llama9" }))
    assert.deepStrictEqual(ollamaChat.encodeError(error, "r1"), { status: 404, body: { error: "no model llama9" } })
    const upstream = fail(
      new ProviderFailed({ message: "bad key", kind: "credential", provider: "o", upstreamStatus: 401 })
    )
    assert.deepStrictEqual(ollamaChat.encodeError(upstream, "r1"), { status: 502, body: { error: "bad key" } })
  })
})

describe("discovery", () => {
  it("reads the names of the models", () => {
    const json = { models: [{ name: "llama3:latest", model: "llama3:latest", size: 1 }, { name: "qwen3:4b" }, {}] }
    assert.deepStrictEqual(success(decodeTags(json)), ["llama3:latest", "qwen3:4b"])
    assert.deepStrictEqual(success(decodeTags({ models: null })), [])
    assert.strictEqual(failure(decodeTags({ data: [] })).kind, "protocol")
    assert.strictEqual(failure(decodeTags("<html>")).kind, "protocol")
  })

  it("reads what a model can do, and how much it can hold", () => {
    const json = {
      capabilities: ["completion", "tools", "vision", "thinking", "insert", "tomorrow"],
      model_info: { "general.architecture": "qwen3", "qwen3.context_length": 40960, "clip.context_length": 7 }
    }
    assert.deepStrictEqual(success(decodeShow(json, "qwen3:4b")), {
      model: "qwen3:4b",
      capabilities: [
        "text_input",
        "text_output",
        "streaming",
        "structured_output",
        "tools",
        "parallel_tools",
        "image_input",
        "reasoning"
      ],
      contextWindow: 40960
    })
    assert.deepStrictEqual(success(decodeShow({ capabilities: ["embedding"] }, "nomic")), {
      model: "nomic",
      capabilities: ["text_input", "embeddings"]
    })
  })

  it("reads what the gateway writes of its own models", () => {
    const seer = {
      name: "fast",
      providers: ["a", "b"],
      capabilities: ["text_output", "tools", "image_input", "reasoning"] as const,
      contextWindow: 4096,
      created: 1786082889
    }
    const shown = success(decodeShow(encodeShow(seer), "fast"))
    assert.strictEqual(shown.contextWindow, 4096)
    const able = shown.capabilities ?? []
    assert.includeMembers([...able], [...seer.capabilities])
    assert.isFalse(able.includes("embeddings"))
    const unknown = { name: "a::m", providers: ["a"], created: Number.MAX_VALUE }
    assert.isUndefined(success(decodeShow(encodeShow(unknown), "m")).contextWindow)
    assert.deepStrictEqual(success(decodeTags(encodeTags([seer, unknown]))), ["fast:latest", "a::m"])
  })

  it("leaves out what the server does not tell", () => {
    assert.deepStrictEqual(success(decodeShow({ model_info: {} }, "m")), { model: "m" })
    assert.strictEqual(failure(decodeShow(null, "m")).kind, "protocol")
  })
})
