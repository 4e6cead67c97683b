/**
 * A small chat engine on the gateway: it keeps its conversations on its own side, streams each answer over RPC as it comes, and
 * runs its tools itself until the model has no more calls. Run it with `npx node scratchpad/09-chat-engine.ts`; it brings a gateway
 * with the sandbox along. With GATEWAY_URL, GATEWAY_KEY and GATEWAY_MODEL it talks to another one.
 */
import { NodeServices } from "@effect/platform-node"
import { Config, Console, Context, Effect, Layer, Option, Stream } from "effect"
import { HttpServer } from "effect/http"
import { GatewayClient } from "../src/client/index.ts"
import {
  ChatStream,
  ConfigFile,
  type ConnectionFailed,
  Content,
  type GatewayError,
  GatewayLayer,
  GatewayServer,
  type Message,
  type Tool
} from "../src/index.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Tools
// ---------------------------------------------------------------------------------------------------------------------

interface RunnableTool {
  readonly tool: Tool.UnifiedTool
  readonly run: (argumentsJson: string) => Effect.Effect<string>
}

const weather: RunnableTool = {
  tool: {
    type: "unified",
    name: "get_weather",
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
  },
  run: (json) => Effect.succeed(`It is sunny (asked with ${json}).`)
}

// ---------------------------------------------------------------------------------------------------------------------
// The engine
// ---------------------------------------------------------------------------------------------------------------------

/** Turns of one conversation before it is given up. */
const maxTurns = 4

/** Keeps conversations, and answers in them. */
class ChatEngine extends Context.Service<ChatEngine, {
  /** Says something in a conversation; `onText` gets the answer as it comes. */
  readonly say: (
    conversation: string,
    text: string,
    onText: (text: string) => Effect.Effect<void>
  ) => Effect.Effect<void, GatewayError | ConnectionFailed>
  readonly history: (conversation: string) => ReadonlyArray<Message>
}>()("scratchpad/ChatEngine") {
  static readonly layer = (model: string, tools: ReadonlyArray<RunnableTool>) =>
    Layer.effect(
      ChatEngine,
      Effect.gen(function*() {
        const client = yield* GatewayClient
        const conversations = new Map<string, ReadonlyArray<Message>>()

        const turn = Effect.fnUntraced(function*(
          [first, ...others]: readonly [Message, ...Array<Message>],
          onText: (text: string) => Effect.Effect<void>
        ) {
          const chunks = client.streamChat({
            model,
            messages: [first, ...others],
            tools: tools.map(({ tool }) => tool)
          }).pipe(
            Stream.tap(({ delta }) =>
              Effect.forEach(delta, (piece) => piece.type === "text" ? onText(piece.text) : Effect.void, {
                discard: true
              })
            )
          )
          return yield* ChatStream.collect(chunks)
        })

        const results = (content: ReadonlyArray<Content.Part>) =>
          Effect.forEach(
            content.filter((part) => part.type === "tool_call"),
            ({ arguments: json, id, name }) => {
              const found = tools.find(({ tool }) => tool.name === name)
              const ran = found === undefined ? Effect.succeed(`there is no tool ${name}`) : found.run(json)
              return Effect.map(ran, (said): Content.Part => ({
                type: "tool_result",
                toolCallId: id,
                content: [Content.text(said)]
              }))
            }
          )

        return ChatEngine.of({
          history: (conversation) => conversations.get(conversation) ?? [],
          say: Effect.fnUntraced(function*(conversation, said, onText) {
            const question: Message = { role: "user", content: [Content.text(said)] }
            const messages: Array<Message> = [...conversations.get(conversation) ?? [], question]
            for (let turns = 0; turns < maxTurns; turns++) {
              const [first = question, ...others] = messages
              const { content } = yield* turn([first, ...others], onText)
              messages.push({ role: "assistant", content })
              const answers = yield* results(content)
              if (answers.length === 0) break
              messages.push({ role: "tool", content: answers })
            }
            conversations.set(conversation, messages)
          })
        })
      })
    )
}

// ---------------------------------------------------------------------------------------------------------------------
// The way to the gateway
// ---------------------------------------------------------------------------------------------------------------------

const OwnGateway = Layer.unwrap(Effect.map(
  Effect.fromResult(
    ConfigFile.parse(
      "providers: { sandbox: { type: sandbox } }\nstorage: { sql: \"sqlite::memory:\" }\n",
      "gateway.yaml",
      {}
    )
  ),
  (config) =>
    GatewayServer.layer({ host: "127.0.0.1", port: 0, maxBodyBytes: 1e6, drainTimeout: 1_000 }).pipe(
      Layer.provide(GatewayLayer.layer(config)),
      Layer.provide(NodeServices.layer)
    )
))

const OverWebSocket = Layer.unwrap(Effect.gen(function*() {
  const url = yield* Config.option(Config.String("GATEWAY_URL"))
  const key = yield* Config.option(Config.Redacted("GATEWAY_KEY"))
  const withKey = Option.isNone(key) ? {} : { key: key.value }
  if (Option.isSome(url)) return GatewayClient.layerWebSocket({ url: url.value, ...withKey })
  return Layer.unwrap(Effect.map(HttpServer.HttpServer, ({ address }) =>
    GatewayClient.layerWebSocket({
      url: address._tag === "UnixPathAddress" ? "" : `http://127.0.0.1:${address.port}`
    }))).pipe(Layer.provide(OwnGateway))
}))

const program = Effect.gen(function*() {
  const engine = yield* ChatEngine
  for (const said of ["How is the weather in Paris?", "Thank you!"]) {
    yield* Console.log(`> ${said}`)
    const pieces: Array<string> = []
    yield* engine.say("first", said, (text) => Effect.sync(() => void pieces.push(text)))
    yield* Console.log(`< ${pieces.join("")} (in ${pieces.length} pieces)`)
  }
  for (const { content, role } of engine.history("first")) {
    yield* Console.log(`${role}: ${content.map(({ type }) => type).join(", ")}`)
  }
})

const model = Effect.runSync(Config.withDefault(Config.String("GATEWAY_MODEL"), "sandbox::tools"))
await Effect.runPromise(
  program.pipe(Effect.provide(ChatEngine.layer(model, [weather]).pipe(Layer.provide(OverWebSocket))))
)
