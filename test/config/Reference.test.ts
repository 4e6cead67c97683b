/** The schema, its JSON Schema, the table of keys and docs/CONFIGURATION.md say the same. */
import { assert, describe, it } from "@effect/vitest"
import { Ajv2020 } from "ajv/dist/2020.js"
import { Result } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { parseDocument } from "yaml"
import { parse } from "../../src/config/ConfigFile.ts"
import { jsonSchema, jsonSchemaText } from "../../src/config/JsonSchema.ts"
import { keyReference, referenceRow } from "../../src/config/KeyReference.ts"

const page = readFileSync(new URL("../../docs/CONFIGURATION.md", import.meta.url), "utf8")
const blocks = Array.from(page.matchAll(/```yaml\n([\s\S]*?)```/g), (match) => match[1] ?? "")
const example = new URL("../../../shared/gateway.example.yaml", import.meta.url)

const isJson = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** All keys that a JSON Schema has, in the spelling of the table. */
const keysOf = (node: unknown, path: string, found: Set<string>): Set<string> => {
  if (!isJson(node)) return found
  const { additionalProperties, anyOf, items, oneOf, properties } = node
  if (isJson(properties)) {
    for (const [name, inner] of Object.entries(properties)) {
      const key = path === "" ? name : `${path}.${name}`
      found.add(key)
      keysOf(inner, key, found)
    }
  }
  if (isJson(additionalProperties)) keysOf(additionalProperties, `${path}.<name>`, found)
  keysOf(items, `${path}[]`, found)
  for (const members of [anyOf, oneOf]) {
    if (Array.isArray(members)) { for (const member of members) keysOf(member, path, found) }
  }
  return found
}

describe("docs/gateway.schema.json", () => {
  const validate = new Ajv2020({ strict: false }).compile(jsonSchema())
  const accepts = (text: string): boolean => validate(parseDocument(text).toJS())

  it("is what the schema gives now", () => {
    const committed = readFileSync(new URL("../../docs/gateway.schema.json", import.meta.url), "utf8")
    assert.isTrue(committed === jsonSchemaText(), "run: node src/config/JsonSchema.ts > docs/gateway.schema.json")
  })

  it("accepts what the gateway accepts, references included", () => {
    for (const block of blocks) {
      assert.isTrue(accepts(block), `${block}\n${JSON.stringify(validate.errors?.slice(0, 3))}`)
    }
    assert.isTrue(accepts("server: { port: \"${PORT:-8080}\" }\nauth: { mode: \"${MODE}\" }"))
  })

  it.skipIf(!existsSync(example))("accepts the example file as it stands", () => {
    assert.isTrue(accepts(readFileSync(example, "utf8")), JSON.stringify(validate.errors?.slice(0, 3)))
  })

  it.each([
    "server: { prot: 1 }",
    "server: { port: 70000 }",
    "server: { port: x }",
    "server: { drain_timeout: 30 }",
    "auth: { mode: key }",
    "auth: { mode: keys, keys: [{ id: a }] }",
    "providers: { a: { type: opnai } }",
    "audit: { sinks: [{ type: jsonl }] }"
  ])("refuses %s, as the gateway does", (text) => {
    assert.isFalse(accepts(text))
    assert.isTrue(Result.isFailure(parse(text, "g.yaml", {})))
  })
})

describe("the table of keys", () => {
  it("has every key of the schema and no other", () => {
    const inSchema = [...keysOf(jsonSchema(), "", new Set())].sort()
    // A price by tiers or variants has keys of its own, which the table explains under `prices`.
    const known = inSchema.filter((key) => !/(?:_mtok|image|_second)\.(?:base|tiers|variants)/.test(key))
    assert.deepStrictEqual(keyReference.map(({ path }) => path).sort(), known)
  })
})

describe("docs/CONFIGURATION.md", () => {
  it("has the row of every key", () => {
    for (const entry of keyReference) assert.include(page, `${referenceRow(entry)}\n`)
    assert.strictEqual(
      page.match(/^\| `[a-z_]+(?:[.[][^`]*)?` \|.*\| (?:yes|not yet) \|$/gm)?.length,
      keyReference.length
    )
  })

  it("has YAML that works", () => {
    assert.isAtLeast(blocks.length, 6)
    for (const block of blocks) {
      const result = parse(block, "page", {})
      assert.isTrue(Result.isSuccess(result), `${block}\n${Result.isFailure(result) ? result.failure.message : ""}`)
    }
  })

  it("shows errors as they are", () => {
    const shown = /```text\n([\s\S]*?)```/.exec(page)?.[1]?.trim()
    const text = [
      "providers:",
      "  sandbox:",
      "    type: sandbox",
      "  openai:",
      "    type: openai",
      "    base_url: api.example.com",
      "    api_ky: secret",
      "tenants:",
      "  acme-lab: { parent: acmee }",
      "  acme: {}",
      "server:",
      "  max_body: 25"
    ].join("\n")
    const result = parse(text, "gateway.yaml", {})
    assert.strictEqual(Result.isFailure(result) ? result.failure.message : "", shown)
  })
})
