import { inject, Injectable, signal } from "@angular/core";
import { takeUntilDestroyed, toSignal } from "@angular/core/rxjs-interop";
import type { CloudEvent, FileInfo } from "@gridcast/client";
import { catchError, EMPTY, from, merge, scan, switchMap, tap } from "rxjs";
import { GRIDCAST } from "./gridcast";

const SHOWN_EVENTS = 20;

/** The state that components share. Signals are made here, once: each `toSignal` subscribes. */
@Injectable({ providedIn: "root" })
export class MediaStore {
  private readonly socket = inject(GRIDCAST);
  private readonly known = new Map<string, { revision: number; file: FileInfo | null }>();
  private loaded = false;

  readonly connection = toSignal(this.socket.state$, { requireSync: true });
  readonly events = toSignal(
    this.socket.events$.pipe(scan((shown, event) => [event, ...shown].slice(0, SHOWN_EVENTS), new Array<CloudEvent>())),
    { initialValue: [] },
  );
  readonly files = signal<readonly FileInfo[]>([]);
  readonly problem = signal("");

  constructor() {
    const { client, gaps$, ofType } = this.socket;
    merge(ofType("file.created"), ofType("file.replaced"), ofType("file.restored"), ofType("file.deleted"))
      .pipe(takeUntilDestroyed())
      .subscribe(({ type, data }) => this.take(data, type === "file.deleted" ? null : data));
    ofType("file.moved")
      .pipe(takeUntilDestroyed())
      .subscribe(({ data }) => {
        this.take(data, data);
        if (data.previous) this.take({ ...data, ...data.previous }, null); // else its old name is deleted by an event of its own
      });
    // At the first connection and after each gap the list is read again; what events say meanwhile is compared by revision.
    gaps$
      .pipe(
        tap(() => this.known.clear()),
        switchMap(() =>
          from(client.files.list({ limit: 100 })).pipe(
            catchError((error: Error) => {
              this.problem.set(error.message);
              return EMPTY; // an error would end the stream for good
            }),
          ),
        ),
        takeUntilDestroyed(),
      )
      .subscribe(({ files }) => {
        this.loaded = true;
        this.problem.set("");
        for (const file of files) this.take(file, file);
        this.show();
      });
  }

  private take({ folder, filename, revision }: FileInfo, file: FileInfo | null): void {
    const name = JSON.stringify([folder, filename]);
    if (revision <= (this.known.get(name)?.revision ?? -1)) return;
    this.known.set(name, { revision, file });
    if (this.loaded) this.show();
  }

  private show(): void {
    const files = [...this.known.values()].flatMap(({ file }) => file ?? []);
    this.files.set(files.sort((one, other) => other.uploaded_at.localeCompare(one.uploaded_at)));
  }
}
