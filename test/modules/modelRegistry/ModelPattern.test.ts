import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { compilePatterns, matchesPattern } from "../../../src/modules/modelRegistry/ModelPattern.ts"

describe("matchesPattern", () => {
  const cases: ReadonlyArray<readonly [string, string, boolean]> = [
    ["openai::*", "openai::gpt-4o", true],
    ["openai::*", "openai::", true],
    ["openai::*", "openai-eu::gpt-4o", false],
    ["anthropic::claude-*", "anthropic::claude-haiku-4-5", true],
    ["anthropic::claude-*", "anthropic::other", false],
    ["*", "anything::at all", true],
    ["**", "anything::at all", true],
    ["*::gpt-4o", "azure-eu::gpt-4o", true],
    ["*::gpt-4o", "azure-eu::gpt-4o-mini", false],
    ["a*b*c", "a-b-b-c", true],
    ["a*b*c", "a-c-b", false],
    ["ab*ba", "aba", false],
    ["ab*ba", "abba", true],
    ["*mini*", "openai::gpt-4o-mini-2024", true],
    ["openai::gpt-4.1", "openai::gpt-4x1", false],
    ["openai::gpt-4o", "openai::gpt-4o", true],
    ["openai::gpt-4o", "openai::gpt-4o-mini", false],
    ["", "openai::gpt-4o", false],
    ["openai::(a+)+$", "openai::aaaaaaaa", false]
  ]
  for (const [pattern, id, expected] of cases) {
    it(`"${pattern}" ${expected ? "matches" : "does not match"} "${id}"`, () => {
      assert.strictEqual(matchesPattern([pattern], id), expected)
    })
  }
  it("matches where any of several patterns does, and nothing without patterns", () => {
    const matches = compilePatterns(["openai::gpt-4o", "anthropic::*", "*::llama3"])
    assert.deepStrictEqual(
      ["openai::gpt-4o", "anthropic::x", "o::llama3", "openai::gpt-4"].map(matches),
      [true, true, true, false]
    )
    assert.isFalse(compilePatterns([])("openai::gpt-4o"))
  })
  it("stays linear on a pattern that would make a backtracking expression explode", () => {
    const matches = compilePatterns([`${"a*".repeat(200)}b`])
    assert.isFalse(matches(`${"a".repeat(20_000)}c`))
  })
  const Piece = Schema.Literals(["a", "b", "ab", "*", "::", "."])
  it.effect.prop("agrees with the regular expression it stands for", [Schema.Array(Piece), Schema.Array(Piece)], (
    [pattern, id]
  ) =>
    Effect.sync(() => {
      const glob = pattern.slice(0, 8).join("")
      const text = id.slice(0, 12).join("")
      if (glob === "") return
      const expected = new RegExp(`^${glob.replaceAll(".", "\\.").replaceAll(/\*+/g, ".*")}$`).test(text)
      assert.strictEqual(matchesPattern([glob], text), expected, `${glob} on ${text}`)
    }))
})
