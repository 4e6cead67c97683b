/**
 * The public surface: what an app needs to build its own gateway out of Layers.
 *
 * ```ts
 * const AppGateway = Gateway.layer().pipe(
 *   Layer.provideMerge(ModelRegistryLayer.layer()),
 *   Layer.provideMerge(Layer.mergeAll(OpenAi.layer({ apiKey }), Sandbox.layer())),
 *   Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
 * )
 * ```
 */
export * as ConfigFile from "./config/ConfigFile.ts"
export * as GatewayLayer from "./config/GatewayLayer.ts"
export { Gateway, type GatewayOptions } from "./gateway/Gateway.ts"
export * as Registries from "./gateway/Registries.ts"
export * as IdentityJwt from "./modules/identity/IdentityJwt.ts"
export * as IdentityKeys from "./modules/identity/IdentityKeys.ts"
export * as KeysSql from "./modules/identity/KeysSql.ts"
export * as ModelRegistryLayer from "./modules/modelRegistry/Registry.ts"
export * as OutboundUndici from "./modules/outbound/OutboundUndici.ts"
export * as TypeRegistryFolder from "./modules/typeRegistry/TypeRegistryFolder.ts"
export * as TypeRegistryHttp from "./modules/typeRegistry/TypeRegistryHttp.ts"
export * as TypeRegistryMemory from "./modules/typeRegistry/TypeRegistryMemory.ts"
export * as HeaderMetadata from "./plugins/interceptors/headerMetadata/HeaderMetadata.ts"
export * as Moderation from "./plugins/interceptors/moderation/Moderation.ts"
export * as NoopInterceptor from "./plugins/interceptors/noop/Noop.ts"
export * as Pii from "./plugins/interceptors/pii/Pii.ts"
export * as PromptGuard from "./plugins/interceptors/promptGuard/PromptGuard.ts"
export * as Webhook from "./plugins/interceptors/webhook/Webhook.ts"
export * as Anthropic from "./plugins/providers/anthropic/Anthropic.ts"
export * as Ollama from "./plugins/providers/ollama/Ollama.ts"
export * as OpenAi from "./plugins/providers/openai/OpenAi.ts"
export * as Sandbox from "./plugins/providers/sandbox/Sandbox.ts"
export * from "./sdk/index.ts"
export * as GatewayServer from "./server/GatewayServer.ts"
