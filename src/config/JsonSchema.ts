/**
 * The JSON Schema of `gateway.yaml` for editors, made from the configuration's own schema. It describes the file before
 * the environment is put in, so every value that is more than a text may also be a `${NAME}` reference. It is committed as
 * docs/gateway.schema.json; `node src/config/JsonSchema.ts > docs/gateway.schema.json` writes it anew.
 */
import { Schema } from "effect"
import { GatewayConfig } from "./GatewayConfig.ts"
import { keyReference } from "./KeyReference.ts"

type Json = Readonly<Record<string, unknown>>

const isJson = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

const reference = { $ref: "#/$defs/environment" }

const environment = {
  type: "string",
  pattern: "\\$\\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\\}",
  description: "An environment variable: ${NAME} or ${NAME:-default}."
}

const isScalar = (node: unknown): boolean =>
  isJson(node) && ["string", "integer", "number", "boolean"].includes(String(node["type"]))

const isBareString = (node: unknown): boolean =>
  isJson(node) && node["type"] === "string" && Object.keys(node).length === 1

/** Lets a scalar be a reference as well, where its own schema would refuse one. */
const orReference = (node: Json): Json => {
  if (isScalar(node)) {
    const words = node["enum"]
    // The single word that tells the members of a union apart must stay what it is.
    if (Array.isArray(words) && words.length === 1) return node
    const narrow = node["type"] !== "string" || "pattern" in node || "enum" in node || "allOf" in node
    return narrow ? { anyOf: [node, reference] } : node
  }
  const members = node["anyOf"]
  if (!Array.isArray(members) || !members.every((member) => isScalar(member))) return node
  // A number as a text comes from a reference only; to an editor the reference is what may stand there.
  return { ...node, anyOf: [...members.filter((member) => !isBareString(member)), reference] }
}

const descriptions = new Map(keyReference.map(({ path, meaning, default: standard }) => [
  path,
  standard === "" || standard === "required" ? meaning : `${meaning} Default: ${standard}.`
]))

const convert = (node: unknown, path: string, isProperty: boolean): unknown => {
  if (!isJson(node)) return node
  const out: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(node)) {
    if (key === "properties" && isJson(value)) {
      out[key] = Object.fromEntries(
        Object.entries(value).map((
          [name, inner]
        ) => [name, convert(inner, path === "" ? name : `${path}.${name}`, true)])
      )
    } else if (key === "additionalProperties" && isJson(value)) out[key] = convert(value, `${path}.<name>`, true)
    else if (key === "items") out[key] = convert(value, `${path}[]`, true)
    else if ((key === "anyOf" || key === "oneOf") && Array.isArray(value)) {
      out[key] = value.map((member) => convert(member, path, false))
    } else out[key] = value
  }
  const described = isProperty ? descriptions.get(path) : undefined
  const widened = isProperty ? orReference(out) : out
  return described === undefined ? widened : { description: described, ...widened }
}

/** The JSON Schema (draft 2020-12) of the configuration file. */
export const jsonSchema = (): Json => {
  const document = Schema.toJsonSchemaDocument(GatewayConfig, { onExcessProperty: "error" })
  const schema = convert(document.schema, "", false)
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "LLM Gateway configuration",
    ...(isJson(schema) ? schema : {}),
    $defs: { ...document.definitions, environment }
  }
}

/** The JSON Schema as the committed file holds it. */
export const jsonSchemaText = (): string => `${JSON.stringify(jsonSchema(), undefined, 2)}\n`

if (import.meta.main) process.stdout.write(jsonSchemaText())
