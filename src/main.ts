#!/usr/bin/env node
/** The command line: `llm-gateway serve | check | models | chat | keys | audit`. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import {
  Cause,
  Clock,
  Console,
  Effect,
  Exit,
  FileSystem,
  Layer,
  Logger,
  Option,
  References,
  Runtime,
  Stdio,
  Stream,
  Terminal
} from "effect"
import { Argument, CliError, Command, Flag } from "effect/cli"
import { FetchHttpClient, HttpClient, HttpServer } from "effect/http"
import cluster from "node:cluster"
import { constants } from "node:os"
import { auditCommand } from "./config/AuditCommand.ts"
import * as ConfigFile from "./config/ConfigFile.ts"
import { environmentProblems, type EnvironmentRecord, fromEnvironment, ollamaUrl } from "./config/Environment.ts"
import type { GatewayConfig } from "./config/GatewayConfig.ts"
import * as GatewayLayer from "./config/GatewayLayer.ts"
import * as RealtimeSettings from "./config/RealtimeSettings.ts"
import * as FileChanges from "./config/FileChanges.ts"
import * as KeysCommand from "./config/KeysCommand.ts"
import { byModule, leastLevel } from "./config/LogLevels.ts"
import { identified } from "./config/Reloading.ts"
import { inactiveSections, listenProblem } from "./config/StartupNotices.ts"
import * as Stores from "./config/Stores.ts"
import { workerProblems } from "./config/WorkerProblems.ts"
import * as Workers from "./config/Workers.ts"
import { Gateway } from "./gateway/Gateway.ts"
import { AuditTrail } from "./sdk/AuditSink.ts"
import { Configuration } from "./sdk/Configuration.ts"
import type { ChatRequest, Message } from "./sdk/Chat.ts"
import { text, textOf } from "./sdk/Content.ts"
import type { ModelInfo, Price, Prices } from "./sdk/Model.ts"
import { ModelRegistry } from "./sdk/ModelRegistry.ts"
import * as GatewayServer from "./server/GatewayServer.ts"

const version = "0.1.0"

// The one place where the process's environment is read.
const environment: EnvironmentRecord = process.env

/** Ends a command that cannot do its work; the message is all that the user is shown. */
const failed = (message: string) => Effect.fail(new CliError.UserError({ cause: message, userMessage: message }))

// ---------------------------------------------------------------------------------------------------------------------
// Configuration
// ---------------------------------------------------------------------------------------------------------------------

const defaultFile = "gateway.yaml"
/** A local server answers at once or not at all. */
const probeTimeout = "500 millis"

const ollamaAnswers = Effect.gen(function*() {
  const client = yield* HttpClient.HttpClient
  const response = yield* client.get(`${ollamaUrl(environment)}/api/version`)
  yield* response.text
  return response.status === 200
}).pipe(
  Effect.timeout(probeTimeout),
  Effect.orElseSucceed(() => false),
  Effect.provide(FetchHttpClient.layer)
)

/** The file that was named, else `gateway.yaml` where there is one, else what the environment offers. */
const loadConfig = Effect.fnUntraced(function*(file: Option.Option<string>) {
  const fs = yield* FileSystem.FileSystem
  const path = Option.isSome(file) ? file.value : (yield* fs.exists(defaultFile)) ? defaultFile : undefined
  if (path !== undefined) {
    return yield* Effect.catchTag(ConfigFile.load(path, environment), "ConfigError", (error) => failed(error.message))
  }
  const problems = environmentProblems(environment)
  if (problems.length > 0) return yield* failed(problems.join("\n"))
  return fromEnvironment(environment, { ollama: yield* ollamaAnswers })
})

const notices = (config: GatewayConfig): ReadonlyArray<string> =>
  inactiveSections(config).map(({ line, reason, section }) =>
    `${config.source === undefined ? "" : `${config.source.file}:${line ?? 1}: `}${section}: ${reason}`
  )

const config = Flag.File("config").pipe(
  Flag.withAlias("c"),
  Flag.withDescription("The configuration file; default gateway.yaml, or else the environment"),
  Flag.optional
)

type Described = ReturnType<typeof GatewayLayer.layer>
type GatewayLayerLoad = NonNullable<GatewayLayer.GatewayLayerOptions["load"]>

/** Why a gateway could not be built, in the words of its configuration. */
const startProblem = (error: Layer.Error<Described> | Layer.Error<ReturnType<typeof Stores.keyStore>>): string => {
  switch (error._tag) {
    case "SqlError":
    case "MigrationError":
      return `storage.sql: ${error.message}`
    case "RedisError":
      return `storage.redis: cannot connect: ${error.cause instanceof Error ? error.cause.message : "no answer"}`
    default:
      return error.message
  }
}

/** The gateway that the configuration describes; ends the command where it cannot be built. */
const gatewayOf = (config: GatewayConfig, load?: GatewayLayerLoad) =>
  Layer.catch(
    GatewayLayer.layer(config, load === undefined ? {} : { load }),
    (error): Layer.Layer<Layer.Success<Described>, CliError.UserError> =>
      Layer.effectContext(failed(startProblem(error)))
  )

// ---------------------------------------------------------------------------------------------------------------------
// Commands
// ---------------------------------------------------------------------------------------------------------------------

/** Tells the audit trail which configuration is in force from now on, by its hash; secrets are no part of it. */
const tellConfiguration = Effect.fnUntraced(function*(config: GatewayConfig) {
  const audit = yield* Effect.serviceOption(AuditTrail)
  if (Option.isNone(audit)) return
  audit.value.emit({
    type: "configuration_changed",
    at: yield* Clock.currentTimeMillis,
    details: identified(config)
  })
})

/** Says that the service is up, and when it stops what it waits for: what is built last is taken down first. */
const announce = (config: GatewayConfig) =>
  Effect.gen(function*() {
    const server = yield* HttpServer.HttpServer
    const { address: bound } = server
    const address = bound._tag === "UnixPathAddress" ? "a socket" : `http://${hostOf(config)}:${bound.port}`
    yield* Effect.logInfo(`LLM Gateway ${version} listens on ${address}`, {
      providers: Object.keys(config.providers),
      configuration: config.source?.file ?? "environment",
      authentication: config.auth.mode
    })
    yield* tellConfiguration(config)
    yield* Workers.serves
    yield* Effect.addFinalizer(() =>
      Effect.logInfo(`LLM Gateway stops; running requests have ${config.server.drainTimeout / 1000} s to finish`)
    )
  })

/** Ctrl+C reaches a program that npm started twice: from the terminal, and from npm a moment later. */
const sameSignal = 500

/** What signals mean beyond the first SIGTERM or SIGINT, which interrupts the service: a second one ends the process at once. */
const listenToSignals = Effect.sync(() => {
  let toldAt: number | undefined
  const onStop = (signal: NodeJS.Signals): void => {
    const now = performance.now()
    if (toldAt !== undefined && now - toldAt > sameSignal) process.exit(128 + constants.signals[signal])
    toldAt ??= now
  }
  process.on("SIGTERM", onStop)
  process.on("SIGINT", onStop)
})

/**
 * Reads the configuration anew on SIGHUP, and when its file changes. A SIGHUP from a terminal that was closed means SIGTERM.
 * What comes of it is in the log.
 */
const reloads = Effect.fnUntraced(function*({ source }: GatewayConfig) {
  const { reload } = yield* Configuration
  const reloaded = Effect.ignore(reload)
  const run = Effect.runForkWith(yield* Effect.context())
  const onHangUp = (): void => {
    if (process.stdout.isTTY) process.kill(process.pid, "SIGTERM")
    else run(reloaded)
  }
  yield* Effect.acquireRelease(
    Effect.sync(() => process.on("SIGHUP", onHangUp)),
    // The signal that this answers would end a process that nobody listens in.
    () => Effect.sync(() => process.on("SIGHUP", () => undefined).off("SIGHUP", onHangUp))
  )
  if (source !== undefined) yield* Effect.forkScoped(FileChanges.follow(source.file, reloaded))
})

/** How often it is looked whether npm's shell still runs. */
const parentCheck = "250 millis"

/**
 * Ends when the shell that `npm start` runs the service in is gone. A signal that npm gets ends that shell, which does not
 * pass it on; the service would live on with nobody knowing.
 */
const npmGone = Effect.suspend(() => {
  if (environment["npm_lifecycle_event"] !== "start") return Effect.never
  const shell = process.ppid
  return Effect.asVoid(Effect.repeat(Effect.sleep(parentCheck), { until: () => process.ppid !== shell }))
})

const hostOf = (config: GatewayConfig) =>
  config.server.host.includes(":") ? `[${config.server.host}]` : config.server.host

/** The name of this worker; absent in a process that serves alone, or that runs the workers. */
const workerName = cluster.isWorker ? environment[Workers.workerVariable] : undefined

const workers = Flag.Int("workers").pipe(
  Flag.withDescription("Processes that share the address; what they count together has to be in Redis"),
  Flag.withDefault(1)
)

const maxWorkers = 256

/** Runs the service in several processes, and ends as they do. */
const serveByWorkers = Effect.fnUntraced(function*(config: GatewayConfig, count: number) {
  const problems = workerProblems(config)
  if (problems.length > 0) return yield* failed(`--workers ${count}: ${problems.join("\n")}`)
  for (const notice of notices(config)) yield* Effect.logWarning(notice)
  endsWithOutput = false
  yield* Effect.logInfo(`LLM Gateway ${version} runs ${count} workers`)
  const code = yield* Workers.run({ count, drainTimeout: config.server.drainTimeout, stop: npmGone })
  if (code !== 0) process.exit(code)
})

/** Runs the service in this process. */
const serveHere = Effect.fnUntraced(function*(config: GatewayConfig, file: Option.Option<string>) {
  if (workerName === undefined) { for (const notice of notices(config)) yield* Effect.logWarning(notice) }
  yield* listenToSignals
  endsWithOutput = false
  const services = yield* Effect.context<FileSystem.FileSystem>()
  const again = Effect.provideContext(loadConfig(file), services).pipe(
    Effect.mapError(({ cause }) => ({ message: String(cause) }))
  )
  const service = Layer.launch(
    Layer.effectDiscard(Effect.andThen(reloads(config), announce(config))).pipe(
      Layer.provideMerge(GatewayServer.layer({
        host: config.server.host,
        port: config.server.port,
        maxBodyBytes: config.server.maxBody,
        metrics: config.observability.metrics,
        drainTimeout: config.server.drainTimeout,
        shedding: config.server.shed,
        realtime: RealtimeSettings.routes(config)
      })),
      Layer.provideMerge(gatewayOf(config, again)),
      Layer.provide(workerName === undefined ? Layer.empty : Workers.peers(workerName))
    )
  )
  return yield* Effect.raceFirst(service, workerName === undefined ? npmGone : Effect.never).pipe(
    Effect.catchTag(
      "ServeError",
      () => failed(`cannot listen on ${config.server.host}:${config.server.port}; is it in use already?`)
    ),
    Effect.provideService(References.MinimumLogLevel, leastLevel(config.observability)),
    Effect.updateService(
      Logger.CurrentLoggers,
      (loggers) => new Set(Array.from(loggers, byModule(config.observability)))
    ),
    workerName === undefined ? (self) => self : Effect.annotateLogs({ worker: workerName })
  )
})

const serve = Command.make("serve", { config, workers }, ({ config: file, workers: count }) =>
  Effect.gen(function*() {
    if (count < 1 || count > maxWorkers) return yield* failed(`--workers: expected 1 to ${maxWorkers}`)
    const config = yield* loadConfig(file)
    const problem = listenProblem(config)
    if (problem !== undefined) return yield* failed(problem)
    yield* count > 1 && workerName === undefined ? serveByWorkers(config, count) : serveHere(config, file)
  })).pipe(Command.withDescription("Runs the HTTP service"))

const check = Command.make("check", { config }, ({ config: file }) =>
  Effect.gen(function*() {
    const config = yield* loadConfig(file)
    const problem = listenProblem(config)
    if (problem !== undefined) return yield* failed(problem)
    // Of all that is built at the start only this can be wrong where the configuration itself is right.
    yield* Effect.scoped(Layer.build(GatewayLayer.typeRegistry(config))).pipe(
      Effect.catchTag("SchemaFolderError", (error) => failed(error.message))
    )
    for (const notice of notices(config)) yield* Console.log(notice)
    const { models, providers } = config
    yield* Console.log(
      `${config.source?.file ?? "environment"}: ok (${
        Object.keys(providers).length
      } providers, ${models.length} configured models)`
    )
  })).pipe(Command.withDescription("Checks the configuration and says what is wrong with it"))

const priceText = (price: Price | undefined): string =>
  price === undefined ? "?" : String(typeof price === "number" ? price : price.base)

/** Prices of tokens in and out, or what the model is sold by where that is something else. */
const pricesText = (prices: Prices | undefined): string => {
  const tokens = `${priceText(prices?.inputMtok)}/${priceText(prices?.outputMtok)}`
  if (prices === undefined || tokens !== "0/0") return tokens
  const { characterMchar, image, inputAudioSecond, outputAudioSecond, outputVideoSecond } = prices
  if (image !== undefined) return `${typeof image === "number" ? image : image.base}/image`
  if (characterMchar !== undefined) return `${characterMchar}/Mchar`
  const second = inputAudioSecond ?? outputAudioSecond ?? outputVideoSecond
  return second === undefined ? tokens : `${typeof second === "number" ? second : second.base}/s`
}

const modelLine = (model: ModelInfo): string =>
  [
    model.id.padEnd(44),
    pricesText(model.prices).padEnd(14),
    String(model.contextWindow ?? "?").padEnd(10),
    model.capabilities?.join(" ") ?? "?"
  ].join(" ")

const models = Command.make("models", { config }, ({ config: file }) =>
  Effect.gen(function*() {
    const config = yield* loadConfig(file)
    yield* Effect.gen(function*() {
      yield* Effect.flatMap(ModelRegistry, (registry) => registry.refresh)
      const list = yield* Effect.flatMap(Gateway, (gateway) => gateway.models)
      yield* Console.log(["model".padEnd(44), "USD/Mtok".padEnd(14), "context".padEnd(10), "capabilities"].join(" "))
      for (const model of list) yield* Console.log(modelLine(model))
    }).pipe(Effect.provide(gatewayOf(config)))
  })).pipe(Command.withDescription("Lists the models that the providers offer, with prices, context and capabilities"))

const chat = Command.make("chat", {
  config,
  prompt: Argument.String("prompt").pipe(Argument.withDescription("What to ask")),
  model: Flag.String("model").pipe(Flag.withAlias("m"), Flag.withDescription("The model, such as openai::gpt-4o-mini")),
  system: Flag.String("system").pipe(Flag.withDescription("A system message"), Flag.optional),
  stream: Flag.Boolean("stream").pipe(Flag.withDescription("Print the answer as it comes"), Flag.withDefault(false))
}, ({ config: file, model, prompt, stream, system }) =>
  Effect.gen(function*() {
    const config = yield* loadConfig(file)
    const question: Message = { role: "user", content: [text(prompt)] }
    const request: ChatRequest = {
      model,
      messages: Option.match(system, {
        onNone: () => [question],
        onSome: (value) => [{ role: "system", content: [text(value)] }, question]
      })
    }
    yield* (stream ? printStream(request) : printAnswer(request)).pipe(
      Effect.catchTag("GatewayError", (error) => failed(`${error.code}: ${error.message}`)),
      Effect.provide(gatewayOf(config))
    )
  })).pipe(Command.withDescription("Asks a model one question"))

/** What the command prints is for other programs, so the log goes to standard error, and only what matters. */
const quietLog = Layer.mergeAll(
  Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)]),
  Layer.succeed(References.MinimumLogLevel, "Warn")
)

const keys = KeysCommand.make(config, (file) =>
  Layer.unwrap(Effect.map(loadConfig(file), (config) => {
    const store = Stores.keyStore(config)
    return Layer.catch(
      store,
      (error): Layer.Layer<Layer.Success<typeof store>, CliError.UserError> =>
        Layer.effectContext(failed(startProblem(error)))
    )
  })).pipe(Layer.provideMerge(quietLog)))

const printAnswer = (request: ChatRequest) =>
  Effect.gen(function*() {
    const gateway = yield* Gateway
    const response = yield* gateway.chat(request)
    for (const part of response.content) {
      if (part.type === "tool_call") yield* Console.log(`[${part.name} ${part.arguments}]`)
    }
    yield* Console.log(textOf(response.content))
  })

const printStream = (request: ChatRequest) =>
  Effect.gen(function*() {
    const gateway = yield* Gateway
    const terminal = yield* Terminal.Terminal
    yield* Stream.runForEach(gateway.streamChat(request), (chunk) =>
      terminal.display(chunk.delta.map((delta) => delta.type === "text" ? delta.text : "").join("")))
    yield* terminal.display("\n")
  })

// ---------------------------------------------------------------------------------------------------------------------
// Start
// ---------------------------------------------------------------------------------------------------------------------

// Whoever reads the output may go away. A command has nobody left to work for then; a service goes on without its log.
let endsWithOutput = true
for (const output of [process.stdout, process.stderr]) {
  output.on("error", () => {
    if (endsWithOutput) process.exit(1)
  })
}

const program = Command.make("llm-gateway").pipe(
  Command.withDescription("One interface in front of many LLM providers"),
  Command.withSubcommands([serve, check, models, chat, keys, auditCommand]),
  Command.run({ version })
)

/** Pretty for people, a JSON object a line for machines. */
const logger = Layer.unwrap(
  Effect.map(
    Stdio.Stdio,
    (stdio) =>
      Layer.unwrap(
        Effect.map(stdio.stdoutIsTerminal, (terminal) =>
          Logger.layer([terminal ? Logger.consolePretty() : Logger.consoleJson]))
      )
  )
)

/** A service that was told to stop, and did, has done well. */
const teardown: Runtime.Teardown = (exit, onExit) =>
  Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? onExit(0) : Runtime.defaultTeardown(exit, onExit)

program.pipe(
  Effect.provide(Layer.provideMerge(logger, NodeServices.layer)),
  // What a user did wrong has been shown already; anything else is worth its whole cause.
  Effect.tapCause((cause) =>
    Cause.hasInterruptsOnly(cause) ||
      cause.reasons.some((reason) => Cause.isFailReason(reason) && CliError.isCliError(reason.error))
      ? Effect.void
      : Effect.logError(cause)
  ),
  NodeRuntime.runMain({ teardown, disableErrorReporting: true })
)
