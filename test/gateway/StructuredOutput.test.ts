import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { check, checkResponse, compile, maxAnswerSize, streamChecker } from "../../src/gateway/StructuredOutput.ts"
import type { ChatChunk, ChatResponse, FinishReason, PartDelta, ResponseSchema } from "../../src/sdk/Chat.ts"
import { type Part, text } from "../../src/sdk/Content.ts"
import type { ValidationError } from "../../src/sdk/GatewayError.ts"
import type { JsonSchema } from "../../src/sdk/Tool.ts"

const fits = (schema: JsonSchema): ResponseSchema => ({ type: "json_schema", schema })
const failure = <A>(result: Result.Result<A, ValidationError>): ValidationError =>
  Result.isFailure(result) ? result.failure : assert.fail("it passed")
const person = fits({
  type: "object",
  required: ["name", "tags"],
  additionalProperties: false,
  properties: { name: { type: "string" }, tags: { type: "array", items: { type: "string", minLength: 2 } } }
})
const good = "{\"name\":\"Ada\",\"tags\":[\"xy\"]}"

describe("compile", () => {
  it("takes what callers send, whatever draft it is", () => {
    const schemas: ReadonlyArray<JsonSchema> = [
      {},
      {
        type: "object",
        properties: { a: { $ref: "#/$defs/a" } },
        $defs: { a: { $anchor: "a", items: { $ref: "#a" } } }
      },
      { $schema: "https://json-schema.org/draft/2020-12/schema", prefixItems: [{ type: "string" }] },
      { $schema: "http://json-schema.org/draft-07/schema#", items: [{ type: "string" }], definitions: { a: {} } },
      { type: "string", format: "a-format-of-their-own", "x-unknown": { type: "nonsense" } },
      { properties: { $ref: { type: "string" } }, default: { $ref: "https://example.com" } },
      {
        $id: "https://example.com/a",
        $defs: { b: { $id: "https://example.com/b", $defs: { c: {} }, $ref: "#/$defs/c" } }
      },
      { $id: "https://example.com/a", type: "object", $defs: { b: { $id: "https://example.com/b" } } }
    ]
    for (const schema of schemas) assert.isTrue(Result.isSuccess(compile(fits(schema))), JSON.stringify(schema))
    assert.isTrue(Result.isSuccess(compile({ type: "json_object" })))
  })

  it("refuses what cannot be compiled, and tells the field and the reason", () => {
    let deep: JsonSchema = {}
    for (let i = 0; i < 5_000; i++) deep = { items: deep }
    const schemas: ReadonlyArray<readonly [JsonSchema, string]> = [
      [{ type: "strin" }, "type"],
      [{ properties: [] }, "properties"],
      [{ pattern: "(" }, "Invalid regular expression"],
      [{ $ref: "#/$defs/absent" }, "resolve"],
      [{ items: { $ref: "https://example.com/schema.json" } }, "another document"],
      [{ $ref: "gts://gts.x.core.faas.func.v1~" }, "another document"],
      [{ $async: true }, "$async"],
      [{ $schema: "https://example.com/own" }, "$schema"],
      [deep, "deeper than"],
      [{ description: "x".repeat(256 * 1024) }, "larger than 256 KiB"]
    ]
    for (const [schema, reason] of schemas) {
      const error = failure(compile(fits(schema)))
      assert.strictEqual(error.field, "response_schema")
      assert.include(error.message, reason)
      assert.isBelow(error.message.length, 500)
    }
  })

  it("lets no schema get in the way of another by its identity", () => {
    for (
      const $id of [
        "http://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2020-12/schema",
        "https://example.com/same"
      ]
    ) {
      for (
        const $schema of ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
      ) {
        for (const type of ["string", "number"]) {
          const schema = fits({ $schema, $id, type, $defs: { inner: { $id: `${$id}/inner`, const: type } } })
          assert.isTrue(Result.isSuccess(compile(schema)))
          assert.isTrue(Result.isSuccess(check(schema, type === "string" ? "\"a\"" : "1")))
          assert.isTrue(Result.isFailure(compile(fits({ $schema, type: `no ${type}` }))))
        }
      }
    }
  })

  it("tells schemas apart that differ, and takes equal ones for the same", () => {
    assert.isTrue(Result.isSuccess(check(fits({ type: "string", minLength: 1 }), "\"a\"")))
    assert.isTrue(Result.isFailure(check(fits({ minLength: 2, type: "string" }), "\"a\"")))
    assert.isTrue(Result.isSuccess(check(fits({ minLength: 1, type: "string" }), "\"a\"")))
    // More schemas than are kept: the first ones are compiled anew, and still right.
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 300; i++) {
        assert.isTrue(Result.isSuccess(check(fits({ const: i }), String(i))))
        assert.isTrue(Result.isFailure(check(fits({ const: i }), String(i + 1))))
      }
    }
  })
})

describe("check", () => {
  it("gives the value that fits", () => {
    assert.deepStrictEqual(Result.getOrThrow(check(person, ` \n${good}\t`)), { name: "Ada", tags: ["xy"] })
    assert.deepStrictEqual(Result.getOrThrow(check({ type: "json_object" }, "{\"a\":[1]}")), { a: [1] })
  })

  it("refuses what is not JSON and nothing else", () => {
    for (
      const answer of ["", "  ", `\`\`\`json\n${good}\n\`\`\``, `Here it is: ${good}`, `${good}${good}`, "{'a':1}"]
    ) {
      assert.include(failure(check(person, answer)).message, "JSON")
    }
    for (const answer of ["[]", "null", "1", "\"{}\""]) {
      assert.include(failure(check({ type: "json_object" }, answer)).message, "not a JSON object")
    }
  })

  it("locates every problem as callers write paths", () => {
    const error = failure(check(person, "{\"name\":1,\"tags\":[\"xy\",\"z\",2],\"more\":0}"))
    assert.sameDeepMembers((error.issues ?? []).map((issue) => issue.path), ["", "name", "tags[1]", "tags[2]"])
    assert.isUndefined(error.field)
    assert.include(error.message, "(and 3 more)")
    const nested = fits({ properties: { "a/b~c": { items: { properties: { d: { type: "null" } } } } } })
    assert.strictEqual(failure(check(nested, "{\"a/b~c\":[{},{\"d\":1}]}")).issues?.[0]?.path, "a/b~c[1].d")
  })

  it("tells at most 16 problems, and bounds their text", () => {
    const many = JSON.stringify({ name: "x", tags: Array.from({ length: 1000 }, () => 1) })
    const error = failure(check(person, many))
    assert.lengthOf(error.issues ?? [], 16)
    assert.include(error.message, "(and 999 more)")
    const long = failure(
      check(fits({ additionalProperties: { type: "null" } }), JSON.stringify({ ["k".repeat(5000)]: 1 }))
    )
    assert.isBelow(JSON.stringify(long).length, 1000)
  })

  it("looks for the first problem only in a large answer", () => {
    const large = JSON.stringify({ name: "x", tags: Array.from({ length: 200_000 }, () => 1) })
    assert.lengthOf(failure(check(person, large)).issues ?? [], 1)
  })

  it("stops a pattern that backtracks for ever, and checks on afterwards", () => {
    const slow = fits({ type: "string", pattern: "^(a+)+$" })
    assert.include(failure(check(slow, JSON.stringify(`${"a".repeat(50)}b`))).message, "too complex")
    assert.isTrue(Result.isSuccess(check(slow, "\"aaa\"")))
    assert.isTrue(Result.isFailure(check(slow, "\"b\"")))
  })

  it("gives up on an answer that nests deeper than the stack", () => {
    const nested = `${"[".repeat(200_000)}${"]".repeat(200_000)}`
    assert.include(failure(check(fits({ items: { $ref: "#" } }), nested)).message, "too complex")
    assert.isTrue(Result.isSuccess(check(fits({ type: "array", items: { $ref: "#" } }), "[[[]],[]]")))
    assert.isTrue(Result.isFailure(check(fits({ type: "array", items: { $ref: "#" } }), "[[[]],[1]]")))
  })

  it.prop("passes whatever its own schema describes, and fails what it does not", [
    Schema.Struct({ a: Schema.Int, b: Schema.Array(Schema.String) })
  ], ([value]) => {
    const schema = fits({
      type: "object",
      required: ["a", "b"],
      properties: { a: { type: "integer" }, b: { type: "array", items: { type: "string" } } }
    })
    assert.isTrue(Result.isSuccess(check(schema, JSON.stringify(value))))
    assert.isTrue(Result.isFailure(check(schema, JSON.stringify({ ...value, a: `${value.a}` }))))
    assert.isTrue(Result.isFailure(check(schema, JSON.stringify({ ...value, b: [...value.b, null] }))))
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Whole and streamed answers
// ---------------------------------------------------------------------------------------------------------------------

const response = (
  content: ReadonlyArray<Part>,
  finishReason: FinishReason = "stop",
  ...others: ReadonlyArray<ReadonlyArray<Part>>
): ChatResponse => ({
  id: "r",
  model: "m",
  content,
  finishReason,
  alternatives: others.map((content) => ({ content, finishReason: "stop" }))
})
const call: Part = { type: "tool_call", id: "1", name: "t", arguments: "{}" }

const deltasOf = (part: Part, index: number): ReadonlyArray<PartDelta> => {
  switch (part.type) {
    case "text":
      return (part.text.match(/[^]{1,3}/g) ?? []).map((text) => ({ type: "text", index, text }))
    case "tool_call":
      return [{ type: "tool_call", index, id: part.id, name: part.name, arguments: part.arguments }]
    case "refusal":
      return [{ type: "refusal", index, text: part.text }]
    default:
      return [{ type: "part", index, part }]
  }
}

/** The same answer as a stream, its texts in pieces of 3, its choices mixed. */
const chunksOf = (response: ChatResponse): ReadonlyArray<ChatChunk> => {
  const choices = [response, ...response.alternatives ?? []]
  const deltas = choices.map(({ content }) => content.flatMap(deltasOf))
  const chunks: Array<ChatChunk> = []
  for (let i = 0; i <= Math.max(...deltas.map((list) => list.length)); i++) {
    for (const [choice, { finishReason }] of choices.entries()) {
      const delta = deltas[choice]?.[i]
      const frame = { id: "r", model: "m", ...(choice === 0 ? {} : { choice }) }
      if (delta !== undefined) chunks.push({ ...frame, delta: [delta] })
      else if (i === deltas[choice]?.length) chunks.push({ ...frame, delta: [], finishReason })
    }
  }
  return chunks
}

describe("checkResponse and streamChecker", () => {
  const cases: ReadonlyArray<readonly [string, ChatResponse, string | undefined]> = [
    ["an answer that fits", response([text(good)]), undefined],
    [
      "an answer in several text parts, with thinking before",
      response([
        { type: "reasoning", text: "hm" },
        text(good.slice(0, 7)),
        text(good.slice(7))
      ]),
      undefined
    ],
    ["an answer that does not fit", response([text("{}")]), "does not fit"],
    ["prose", response([text("Sure!")]), "is not JSON"],
    ["nothing", response([]), "is empty"],
    ["another finish reason", response([text("{}")], "other"), "does not fit"],
    ["tool calls", response([text("Let me see."), call], "tool_calls"), undefined],
    ["tool calls that ended otherwise", response([call], "stop"), undefined],
    ["a refusal", response([{ type: "refusal", text: "no" }]), undefined],
    ["filtered content", response([text("{\"na")], "content_filter"), undefined],
    ["an answer cut off", response([text("{\"na")], "length"), "cut off by the token limit"],
    ["a later choice that does not fit", response([text(good)], "stop", [text(good)], [text("1")]), "does not fit"],
    ["choices that all fit", response([text(good)], "stop", [text(good)]), undefined]
  ]
  it.each(cases)("judges %s alike, whole and streamed", (_, response, expected) => {
    const checker = streamChecker(person)
    for (const chunk of chunksOf(response)) checker.push(chunk)
    for (const result of [checkResponse(response, person), checker.end()]) {
      if (expected === undefined) assert.isTrue(Result.isSuccess(result))
      else assert.include(failure(result).message, expected)
    }
  })

  it("holds no more than its limit, over all choices", () => {
    const checker = streamChecker({ type: "json_object" })
    const piece = " ".repeat(1024 * 1024)
    for (let i = 0; i <= maxAnswerSize / piece.length; i++) {
      checker.push({ id: "r", model: "m", choice: i % 3, delta: [{ type: "text", index: 0, text: piece }] })
    }
    assert.include(failure(checker.end()).message, "too large")
  })
})
