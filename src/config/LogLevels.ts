/** How much is logged, and of which module of the gateway. */
import { Logger, LogLevel, References } from "effect"
import { moduleAnnotation } from "../sdk/Log.ts"
import type { GatewayConfig } from "./GatewayConfig.ts"

const logLevels = { trace: "Trace", debug: "Debug", info: "Info", warn: "Warn", error: "Error" } as const

/** The least that is logged at all; what each module tells beyond that is for `byModule` to leave out. */
export const leastLevel = ({ logLevel, logLevels: ofModules }: GatewayConfig["observability"]): LogLevel.LogLevel =>
  Object.values(ofModules).map((level) => logLevels[level]).reduce<LogLevel.LogLevel>(
    (least, level) => LogLevel.isLessThan(level, least) ? level : least,
    logLevels[logLevel]
  )

/** A logger that leaves out what the configuration wants to hear neither of all modules nor of this one. */
export const byModule = ({ logLevel, logLevels: ofModules }: GatewayConfig["observability"]) => {
  const levels = new Map<unknown, LogLevel.LogLevel>(
    Object.entries(ofModules).map(([module, level]) => [module, logLevels[level]])
  )
  const standard = logLevels[logLevel]
  return (logger: Logger.Logger<unknown, unknown>): Logger.Logger<unknown, unknown> =>
    levels.size === 0 ? logger : Logger.make((options) => {
      const module = options.fiber.getRef(References.CurrentLogAnnotations)[moduleAnnotation]
      return LogLevel.isLessThan(options.logLevel, levels.get(module) ?? standard) ? undefined : logger.log(options)
    })
}
