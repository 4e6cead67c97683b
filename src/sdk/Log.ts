/**
 * The log, told apart by the part of the gateway that writes. Each line carries the name of its module, and the operator
 * may say for each of them how much it is to tell.
 */
import { Effect } from "effect"

/** The parts of the gateway whose lines can be told apart. `access` has one line for each request. */
export type LogModule =
  | "access"
  | "budgets"
  | "files"
  | "identity"
  | "interceptors"
  | "jobs"
  | "limits"
  | "models"
  | "outbound"
  | "records"
  | "requests"
  | "sql"

/** The annotation that holds the module's name. */
export const moduleAnnotation = "module"

/** The log of one module: as Effect's own functions, with the module's name beside what is told. */
export interface Log {
  readonly debug: (...message: ReadonlyArray<unknown>) => Effect.Effect<void>
  readonly info: (...message: ReadonlyArray<unknown>) => Effect.Effect<void>
  readonly warning: (...message: ReadonlyArray<unknown>) => Effect.Effect<void>
  readonly error: (...message: ReadonlyArray<unknown>) => Effect.Effect<void>
}

/** Makes the log of a module. */
export const logOf = (module: LogModule): Log => {
  const named = Effect.annotateLogs({ [moduleAnnotation]: module })
  return {
    debug: (...message) => named(Effect.logDebug(...message)),
    info: (...message) => named(Effect.logInfo(...message)),
    warning: (...message) => named(Effect.logWarning(...message)),
    error: (...message) => named(Effect.logError(...message))
  }
}
