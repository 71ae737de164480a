import { type EnvironmentProviders, InjectionToken, makeEnvironmentProviders } from "@angular/core";
import type { ClientOptions } from "@gridcast/client";
import { webSocket } from "@gridcast/client/rxjs";

export type GridcastSocket = ReturnType<typeof webSocket>;

/** The one client of the application: its socket is open while someone listens. */
export const GRIDCAST = new InjectionToken<GridcastSocket>("GRIDCAST");

export function provideGridcast(options: ClientOptions = {}): EnvironmentProviders {
  return makeEnvironmentProviders([{ provide: GRIDCAST, useFactory: () => webSocket(options) }]);
}
