/**
 * Reads a `gateway.yaml`: text, environment references, schema and names, with all problems located and told at once.
 * `parse` is pure; `load` reads the file first.
 */
import { Effect, FileSystem, type PlatformError, Result, Schema } from "effect"
import { type ConfigError, configError, type Finding, type Problem, writePath } from "./ConfigError.ts"
import { crossReferences } from "./CrossReferences.ts"
import { providersFromEnvironment } from "./Environment.ts"
import { GatewayConfig } from "./GatewayConfig.ts"
import type { EnvironmentRecord } from "./Interpolation.ts"
import { findingsOf } from "./SchemaFindings.ts"
import { maxFileSize, parseYaml } from "./YamlFile.ts"

export { ConfigError, type Problem } from "./ConfigError.ts"

const decode = Schema.decodeUnknownResult(GatewayConfig, { errors: "all", onExcessProperty: "error" })

const hasProviders = (value: unknown): boolean => typeof value === "object" && value !== null && "providers" in value

/**
 * Reads a configuration from its text. `fileName` is how problems name the file. A file without `providers` takes them
 * from the environment, as without a file.
 */
export const parse = (
  text: string,
  fileName: string,
  env: EnvironmentRecord
): Result.Result<GatewayConfig, ConfigError> => {
  const yaml = parseYaml(text, env)
  if (!yaml.readable) return Result.fail(configError(fileName, yaml.problems))

  const fromEnvironment = hasProviders(yaml.value) ? undefined : providersFromEnvironment(env)
  const decoded = decode(yaml.value)
  const findings: Array<Finding> = [
    ...(Result.isFailure(decoded) ? findingsOf(decoded.failure.issue, yaml) : []),
    ...crossReferences(yaml.value, Object.keys(fromEnvironment ?? {}), yaml.isReplaced)
  ]
  const problems: Array<Problem> = [...yaml.problems]
  const located = new Set(problems.map(({ path }) => path))
  for (const { path, message, atKey } of findings) {
    const written = writePath(path)
    // The first problem of a place is the cause, what follows it is mostly its echo.
    if (located.has(written)) continue
    located.add(written)
    const position = atKey === true ? yaml.keyPositionOf(path) : yaml.positionOf(path)
    problems.push({ ...position, path: written, message })
  }
  if (problems.length > 0 || Result.isFailure(decoded)) return Result.fail(configError(fileName, problems))
  return Result.succeed({
    ...decoded.success,
    ...(fromEnvironment === undefined ? {} : { providers: fromEnvironment }),
    source: { file: fileName, lines: yaml.lines }
  })
}

const unreadable = (path: string, message: string): ConfigError => configError(path, [{ line: 1, path: "", message }])

/** Reads a configuration file. Fails with every problem that it has, or with the reason why it cannot be read. */
export const load = Effect.fn("ConfigFile.load")(function*(path: string, env: EnvironmentRecord) {
  const fs = yield* FileSystem.FileSystem
  const cannotRead = Effect.mapError((error: PlatformError.PlatformError) =>
    unreadable(
      path,
      error.reason._tag === "NotFound" ? "there is no such file" : `the file cannot be read (${error.reason._tag})`
    )
  )
  const info = yield* cannotRead(fs.stat(path))
  if (info.type !== "File") return yield* unreadable(path, "is not a file")
  if (info.size > maxFileSize) return yield* unreadable(path, "the file is larger than 1 MiB")
  const bytes = yield* cannotRead(fs.readFile(path))
  // A damaged byte must not turn into a different key or address in silence.
  const text = yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => unreadable(path, "the file is not valid UTF-8")
  })
  return yield* Effect.fromResult(parse(text, path, env))
})
