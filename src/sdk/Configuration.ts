/** The configuration that a gateway runs by: which one it is, and how it is read anew while the gateway runs. */
import { Context, type Effect, Schema } from "effect"
import type { GatewayError } from "./GatewayError.ts"

/** A configuration that was not taken over. */
export const RefusedConfiguration = Schema.Struct({
  /** ISO 8601. */
  at: Schema.String,
  /** What is wrong with it, with file and line where there are any. */
  message: Schema.String
})
export interface RefusedConfiguration extends Schema.Schema.Type<typeof RefusedConfiguration> {}

/** Which configuration is in force. */
export const ConfigurationStatus = Schema.Struct({
  /** The file's name, or `environment`. */
  source: Schema.String,
  /** SHA-256 in hex of the configuration with its secrets left out. */
  sha256: Schema.String,
  /** ISO 8601. */
  loadedAt: Schema.String,
  /** Set while what was read last is not what is in force. */
  refused: Schema.optionalKey(RefusedConfiguration)
}).pipe(Schema.encodeKeys({ loadedAt: "loaded_at" }))
export interface ConfigurationStatus extends Schema.Schema.Type<typeof ConfigurationStatus> {}

/** The configuration of a gateway that can be changed while it runs. */
export class Configuration extends Context.Service<Configuration, {
  readonly status: () => ConfigurationStatus
  /**
   * Reads the configuration anew, builds what it describes beside what runs, and puts it in its place: requests from then on
   * go by the new one, those that run finish by the old one. Fails with `validation_error`, and changes nothing, where it is
   * wrong or changes what takes a restart; with `not_found` where the gateway was not built from a source that can be read again.
   */
  readonly reload: Effect.Effect<ConfigurationStatus, GatewayError>
}>()("llm-gateway/sdk/Configuration") {}
