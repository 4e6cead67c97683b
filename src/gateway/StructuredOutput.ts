/**
 * Checks that a model's answer has the form that the request asked for, whatever the provider promised. The schema is
 * compiled before the provider is called, so that a broken one costs nothing; compiled schemas are kept.
 *
 * What is checked is the answer's text, every text part joined, as JSON and nothing else: white space around it is fine,
 * a Markdown fence is not. Answers that are no answer are not checked: tool calls, refusals, and what a content filter
 * stopped. An answer that the token limit cut off fails, and says so.
 */
import { Ajv } from "ajv"
import { Ajv2020, type ErrorObject, type Options, type ValidateFunction } from "ajv/dist/2020.js"
import ajvFormats from "ajv-formats"
import { Result } from "effect"
import { createContext, Script } from "node:vm"
import type { ChatChunk, ChatResponse, FinishReason, ResponseSchema } from "../sdk/Chat.ts"
import { type Part, textOf } from "../sdk/Content.ts"
import { invalid, type Issue, ValidationError } from "../sdk/GatewayError.ts"
import { formatPath } from "../sdk/Issues.ts"
import { isJsonArray, isJsonObject, positionOf, type SchemaPosition } from "../sdk/SchemaPosition.ts"
import type { JsonSchema } from "../sdk/Tool.ts"

/** The largest schema, in UTF-16 units of its JSON. */
export const maxSchemaSize = 256 * 1024
/** The largest answer that is held and checked, over all choices of a request, in UTF-16 units. */
export const maxAnswerSize = 16 * 1024 * 1024

const maxNesting = 64
const maxIssues = 16
const maxText = 300
const maxCompiled = 256
/** What the keys of the compiled schemas may take together, in UTF-16 units. */
const maxCompiledSize = 8 * 1024 * 1024
/** Beyond this size only the first problem is looked for: a list of a million bad elements would make a million errors. */
const maxThorough = 256 * 1024
/** How long a check may take where its schema can make it slow, ms. */
const maxCheckTime = 250

const shown = (text: string, limit = maxText): string => text.length > limit ? `${text.slice(0, limit)}…` : text

// ---------------------------------------------------------------------------------------------------------------------
// Schemas
// ---------------------------------------------------------------------------------------------------------------------

type Draft = "2020" | "7"

/** The drafts that callers write; both compilers read what the schema itself needs, so `$schema` only chooses. */
const drafts: ReadonlyMap<string, Draft> = new Map([
  ["https://json-schema.org/draft/2020-12/schema", "2020"],
  ["https://json-schema.org/draft/2019-09/schema", "2020"],
  ["http://json-schema.org/draft-07/schema", "7"],
  ["https://json-schema.org/draft-07/schema", "7"],
  ["http://json-schema.org/draft-06/schema", "7"]
])

/** What a look over a schema tells. */
interface Survey {
  /** Whether a check can take longer than its input: backtracking patterns, pairwise comparison, branching references. */
  readonly slow: boolean
}

const field = "response_schema"

/** Refuses what must not be compiled: references out of the document, asynchronous schemas, too deep ones. */
const survey = (schema: JsonSchema): Result.Result<Survey, ValidationError> => {
  let slow = false
  let failure: ValidationError | undefined
  const walk = (value: unknown, position: SchemaPosition, nesting: number): void => {
    if (failure !== undefined) return
    if (nesting > maxNesting) {
      failure = invalid(field, `the schema nests deeper than ${maxNesting} levels`)
    } else if (isJsonArray(value)) {
      for (const element of value) walk(element, position, nesting + 1)
    } else if (isJsonObject(value)) {
      for (const key of Object.keys(value)) {
        const child = value[key]
        if (position === "schema") {
          if (key === "$async") failure = invalid(field, "$async is not supported")
          if (key === "$ref" || key === "$dynamicRef" || key === "$recursiveRef") {
            if (typeof child === "string" && !child.startsWith("#")) {
              failure = invalid(
                field,
                `"${shown(child, 100)}" refers to another document; only local references are allowed`
              )
            }
            slow = true
          }
          if (key === "pattern" || key === "patternProperties" || key === "uniqueItems") slow = true
        }
        walk(child, positionOf(position, key), nesting + 1)
      }
    }
  }
  walk(schema, "schema", 0)
  return failure === undefined ? Result.succeed({ slow }) : Result.fail(failure)
}

/** JSON with sorted keys: the same text for the same schema, however it is written. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) =>
    isJsonObject(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0))
      : inner)

// ---------------------------------------------------------------------------------------------------------------------
// Compiling
// ---------------------------------------------------------------------------------------------------------------------

interface Compiled {
  readonly slow: boolean
  /** Finds every problem. */
  readonly thorough: ValidateFunction
  /** Finds the first problem; made when it is first needed. */
  readonly quick: () => ValidateFunction
}

const options: Options = {
  strict: false,
  // Unknown formats are annotations, as JSON Schema has it.
  validateFormats: true,
  logger: false
}

// ajv-formats is CommonJS with its plugin as both `module.exports` and `default`; types and Node agree on the latter only.
const addFormats = ajvFormats.default

const makeCompiler = (draft: Draft, more: Options): Ajv | Ajv2020 => {
  const compiler = draft === "7" ? new Ajv({ ...options, ...more }) : new Ajv2020({ ...options, ...more })
  addFormats(compiler)
  return compiler
}

/** Compilers that check schemas against their draft, made when first needed: loading a meta-schema takes milliseconds. */
const checkers = new Map<Draft, Ajv | Ajv2020>()
const checkerFor = (draft: Draft): Ajv | Ajv2020 => {
  const known = checkers.get(draft)
  if (known !== undefined) return known
  const checker = makeCompiler(draft, {})
  checkers.set(draft, checker)
  return checker
}

/**
 * Every schema gets a compiler of its own, which without a meta-schema costs next to nothing. One for all would keep what
 * it makes of each schema for good, `removeSchema` or not, and would mix up the embedded `$id`s of different callers.
 */
const compileWith = (schema: JsonSchema, draft: Draft, allErrors: boolean): ValidateFunction => {
  const checker = checkerFor(draft)
  if (checker.validateSchema(schema) !== true) throw new Error(`schema is invalid: ${checker.errorsText()}`)
  return makeCompiler(draft, { allErrors, meta: false, validateSchema: false }).compile(schema)
}

/** By canonical JSON, the least recently used first. */
const compiled = new Map<string, Compiled>()
let compiledSize = 0
/** By identity: within one request, the schema is the same object before and after the call. */
const recent = new WeakMap<JsonSchema, Compiled>()

const keep = (key: string, value: Compiled): void => {
  compiled.set(key, value)
  compiledSize += key.length
  for (const oldest of compiled.keys()) {
    if (compiled.size <= maxCompiled && compiledSize <= maxCompiledSize) break
    compiled.delete(oldest)
    compiledSize -= oldest.length
  }
}

const compileSchema = (schema: JsonSchema): Result.Result<Compiled, ValidationError> => {
  const same = recent.get(schema)
  if (same !== undefined) return Result.succeed(same)
  const surveyed = survey(schema)
  if (Result.isFailure(surveyed)) return Result.fail(surveyed.failure)
  const key = canonical(schema)
  if (key.length > maxSchemaSize) {
    return Result.fail(invalid(field, `the schema is larger than ${maxSchemaSize / 1024} KiB`))
  }
  const known = compiled.get(key)
  if (known !== undefined) {
    compiled.delete(key)
    compiled.set(key, known)
    recent.set(schema, known)
    return Result.succeed(known)
  }
  const declared = schema["$schema"]
  const draft = declared === undefined
    ? "2020"
    : typeof declared === "string"
    ? drafts.get(declared.replace(/#$/, ""))
    : undefined
  if (draft === undefined) {
    return Result.fail(
      invalid(field, "$schema must name JSON Schema 2020-12, 2019-09, draft 7 or draft 6, or be absent")
    )
  }
  // The root's own `$id` would be registered with the compiler, where it could stand in for a meta-schema. Nothing can
  // refer to it: only local references are allowed.
  const { $id: _, $schema: __, ...body } = schema
  return Result.try({
    try: (): Compiled => {
      const { slow } = surveyed.success
      let quick: ValidateFunction | undefined
      return {
        slow,
        thorough: compileWith(body, draft, true),
        quick: () => quick ??= compileWith(body, draft, false)
      }
    },
    catch: (error) => invalid(field, shown(error instanceof Error ? error.message : "the schema cannot be compiled"))
  }).pipe(Result.map((made) => {
    keep(key, made)
    recent.set(schema, made)
    return made
  }))
}

/**
 * Whether an answer can be checked against the schema at all. To be run before the provider is called. Fails with
 * `validation_error` on `response_schema`: not a valid JSON Schema, one with references to other documents, or too large.
 */
export const compile = (schema: ResponseSchema): Result.Result<void, ValidationError> =>
  schema.type === "json_object" ? Result.void : Result.map(compileSchema(schema.schema), () => undefined)

// ---------------------------------------------------------------------------------------------------------------------
// Checking
// ---------------------------------------------------------------------------------------------------------------------

// A caller's pattern can backtrack for ever, and a regular expression yields to nothing but V8's own watchdog, which
// only a script's time limit starts. That costs 0.1 to 0.3 ms, so it is for the schemas that can be slow.
const idle = (): unknown => undefined
const watched = { run: idle }
const script = new Script("run()")
let sandbox: ReturnType<typeof createContext> | undefined

/** What a check says; `gaveUp` where it took too long, or where the answer nests deeper than the stack. */
type Verdict = "fits" | "differs" | "gaveUp"

const verdictOf = (fits: unknown): Verdict => fits === true ? "fits" : "differs"

const runCheck = (check: () => boolean, slow: boolean): Verdict => {
  try {
    if (!slow) return verdictOf(check())
    sandbox ??= createContext(watched)
    watched.run = check
    return verdictOf(script.runInContext(sandbox, { timeout: maxCheckTime }))
  } catch {
    return "gaveUp"
  } finally {
    watched.run = idle
  }
}

const mismatch = (message: string): ValidationError => new ValidationError({ message })

/** `/a/0/b~1c` as callers write it: `a[0].b/c`. */
const pathOf = (pointer: string): string =>
  pointer === "" ? "" : shown(
    formatPath(
      pointer.slice(1).split("/").map((token) => {
        const key = token.replaceAll("~1", "/").replaceAll("~0", "~")
        return /^(?:0|[1-9]\d{0,8})$/.test(key) ? Number(key) : key
      })
    ),
    200
  )

const issueOf = (error: ErrorObject): Issue => ({
  path: pathOf(error.instancePath),
  message: shown(error.message ?? "does not fit the schema")
})

const validate = (schema: JsonSchema, value: unknown, size: number): Result.Result<unknown, ValidationError> => {
  const ready = compileSchema(schema)
  if (Result.isFailure(ready)) return Result.fail(ready.failure)
  const run = size > maxThorough ? ready.success.quick() : ready.success.thorough
  const verdict = runCheck(() => run(value), ready.success.slow)
  if (verdict === "fits") return Result.succeed(value)
  if (verdict === "gaveUp") {
    return Result.fail(
      invalid(field, "the model's answer is too complex to be checked; simplify the schema's patterns and references")
    )
  }
  const errors = run.errors ?? []
  // The function lives as long as the cache, and its last errors hold on to the answer.
  run.errors = null
  const issues = errors.slice(0, maxIssues).map(issueOf)
  const first = issues[0] ?? { path: "", message: "does not fit the schema" }
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""
  return Result.fail(
    new ValidationError({
      message: `the model's answer does not fit the response schema: ${
        first.path === "" ? "it" : first.path
      } ${first.message}${more}`,
      issues
    })
  )
}

/**
 * Checks the text of one answer and gives the value that it holds. Fails with `validation_error`: not JSON, not an
 * object where only that was asked for, or not fitting the schema, with at most 16 `issues` at paths like `a[0].b`.
 */
export const check = (schema: ResponseSchema, text: string): Result.Result<unknown, ValidationError> => {
  if (text.length > maxAnswerSize) return Result.fail(mismatch("the model's answer is too large to be checked"))
  const parsed = Result.try((): unknown => JSON.parse(text))
  if (Result.isFailure(parsed)) {
    return Result.fail(mismatch(
      text.trim() === "" ? "the model's answer is empty; JSON was asked for" : "the model's answer is not JSON"
    ))
  }
  if (schema.type === "json_schema") return validate(schema.schema, parsed.success, text.length)
  return isJsonObject(parsed.success)
    ? Result.succeed(parsed.success)
    : Result.fail(mismatch("the model's answer is not a JSON object"))
}

/** One choice of an answer, as far as the check needs it. */
interface Choice {
  readonly text: string
  readonly finishReason: FinishReason
  /** Whether there are tool calls or a refusal: then the text beside them is no answer. */
  readonly exempt: boolean
}

const checkChoice = (schema: ResponseSchema, choice: Choice): Result.Result<void, ValidationError> => {
  if (choice.exempt || choice.finishReason === "tool_calls" || choice.finishReason === "content_filter") {
    return Result.void
  }
  if (choice.finishReason === "length") {
    return Result.fail(
      mismatch("the model's answer was cut off by the token limit, so it cannot fit the response schema")
    )
  }
  return Result.map(check(schema, choice.text), () => undefined)
}

const isExempt = (part: Part): boolean => part.type === "tool_call" || part.type === "refusal"

/**
 * Checks a whole answer, every choice of it. Tool calls, refusals and filtered content pass; an answer with the finish
 * reason `length` fails with `validation_error`, as does one that `check` refuses.
 */
export const checkResponse = (response: ChatResponse, schema: ResponseSchema): Result.Result<void, ValidationError> => {
  for (const choice of [response, ...response.alternatives ?? []]) {
    const result = checkChoice(schema, {
      text: textOf(choice.content),
      finishReason: choice.finishReason,
      exempt: choice.content.some(isExempt)
    })
    if (Result.isFailure(result)) return result
  }
  return Result.void
}

/** Checks a streamed answer: give it every chunk, and ask at the end. Holds the text, at most `maxAnswerSize`. */
export interface StreamChecker {
  readonly push: (chunk: ChatChunk) => void
  /**
   * The verdict over all choices, as `checkResponse` gives it. A choice without finish reason counts as stopped: that a
   * stream broke off is for the stream to tell.
   */
  readonly end: () => Result.Result<void, ValidationError>
}

interface OpenChoice {
  text: string
  finishReason: FinishReason
  exempt: boolean
}

/** Makes the checker of one stream. */
export const streamChecker = (schema: ResponseSchema): StreamChecker => {
  const choices = new Map<number, OpenChoice>()
  let size = 0
  return {
    push: (chunk) => {
      if (size > maxAnswerSize || (chunk.delta.length === 0 && chunk.finishReason === undefined)) return
      const index = chunk.choice ?? 0
      let choice = choices.get(index)
      if (choice === undefined) {
        choice = { text: "", finishReason: "stop", exempt: false }
        choices.set(index, choice)
      }
      for (const delta of chunk.delta) {
        if (delta.type === "text") {
          choice.text += delta.text
          size += delta.text.length
        } else if (delta.type === "part" && delta.part.type === "text") {
          choice.text += delta.part.text
          size += delta.part.text.length
        } else if (
          delta.type === "tool_call" || delta.type === "refusal" || (delta.type === "part" && isExempt(delta.part))
        ) choice.exempt = true
      }
      if (chunk.finishReason !== undefined) choice.finishReason = chunk.finishReason
      if (size > maxAnswerSize) choices.clear()
    },
    end: () => {
      if (size > maxAnswerSize) return Result.fail(mismatch("the model's answer is too large to be checked"))
      if (choices.size === 0) return checkChoice(schema, { text: "", finishReason: "stop", exempt: false })
      for (const choice of choices.values()) {
        const result = checkChoice(schema, choice)
        if (Result.isFailure(result)) return result
      }
      return Result.void
    }
  }
}
