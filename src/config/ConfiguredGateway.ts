/** The gateway that a configuration file describes, as a Layer for an app. */
import { Effect, type FileSystem, Layer } from "effect"
import * as ConfigFile from "./ConfigFile.ts"
import type { EnvironmentRecord } from "./Environment.ts"
import * as GatewayLayer from "./GatewayLayer.ts"

/** What is not in the file. */
export interface ConfiguredGatewayOptions {
  /** Where the file's `${NAME}`s come from; default: the process's environment. */
  readonly environment?: EnvironmentRecord
}

/**
 * Reads the file and builds all that it describes, short of the listening socket: the gateway, its stores and plugins, and who
 * its callers are; the `Configuration` reads the file anew. Fails with `ConfigError`, which names each problem with its line, or with what the stores say.
 */
export const layer = (file: string, options: ConfiguredGatewayOptions = {}) =>
  Layer.unwrap(Effect.gen(function*() {
    const services = yield* Effect.context<FileSystem.FileSystem>()
    // An app that names no environment means its own.
    const read = ConfigFile.load(file, options.environment ?? process.env)
    return GatewayLayer.layer(yield* read, { load: Effect.provideContext(read, services) })
  }))
