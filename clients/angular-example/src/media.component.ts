import { DecimalPipe, JsonPipe, PercentPipe } from "@angular/common";
import { Component, inject, signal } from "@angular/core";
import type { FileInfo, Upload, UploadSnapshot } from "@gridcast/client";
import { GRIDCAST } from "./gridcast";
import { MediaStore } from "./media.store";

interface Row {
  upload: Upload;
  snapshot: UploadSnapshot;
}

@Component({
  selector: "app-media",
  imports: [DecimalPipe, JsonPipe, PercentPipe],
  template: `
    <h1>Gridcast</h1>
    <p role="status">
      @switch (store.connection().state) {
        @case ("connected") { connected as {{ store.connection().sid }} }
        @default { {{ store.connection().state }} }
      }
    </p>

    <label>Upload <input type="file" multiple (change)="add($event)" /></label>
    <ul>
      @for (row of rows(); track row.upload) {
        <li>
          {{ row.snapshot.filename }}: {{ row.snapshot.state }},
          {{ row.snapshot.size ? row.snapshot.sent / row.snapshot.size : 1 | percent }},
          {{ row.snapshot.rate / 1048576 | number: "1.1-1" }} MiB/s {{ row.snapshot.error?.message }}
          @switch (row.snapshot.state) {
            @case ("paused") { <button type="button" (click)="row.upload.resume()">Resume</button> }
            @case ("failed") { <button type="button" (click)="row.upload.resume()">Try again</button> }
            @default { <button type="button" (click)="row.upload.pause()">Pause</button> }
          }
          <button type="button" (click)="row.upload.cancel()">Cancel</button>
        </li>
      }
    </ul>

    @if (playing(); as file) {
      <video controls autoplay [src]="socket.client.files.address(file)"></video>
    }
    <p>{{ store.problem() }}</p>
    <ul>
      @for (file of store.files(); track file.id) {
        <li>
          <button type="button" (click)="playing.set(file)">{{ file.filename }}</button>
          {{ file.length / 1048576 | number: "1.1-1" }} MiB
          <button type="button" (click)="remove(file)">Delete</button>
        </li>
      } @empty {
        <li>No files yet</li>
      }
    </ul>

    <ol>
      @for (event of store.events(); track event.sequence) {
        <li>{{ event.type }} {{ event.data | json }}</li>
      }
    </ol>
  `,
})
export class MediaComponent {
  protected readonly store = inject(MediaStore);
  protected readonly socket = inject(GRIDCAST);
  protected readonly playing = signal<FileInfo | null>(null);
  protected readonly rows = signal<readonly Row[]>([]);

  protected add(event: Event): void {
    for (const file of (event.target as HTMLInputElement).files ?? []) {
      const upload = this.socket.client.uploads.add(file, { folder: "angular" });
      this.rows.update((rows) => [...rows.filter((row) => row.upload !== upload), { upload, snapshot: upload.snapshot }]);
      upload.onChange((snapshot) => this.update(upload, snapshot));
    }
  }

  private update(upload: Upload, snapshot: UploadSnapshot): void {
    const over = snapshot.state === "stored" || snapshot.state === "cancelled";
    this.rows.update((rows) =>
      rows.flatMap((row) => (row.upload !== upload ? row : over ? [] : { upload, snapshot })),
    );
  }

  protected remove(file: FileInfo): void {
    this.socket.client.files.remove(file, { ifMatch: file.etag }).catch((error: Error) => this.store.problem.set(error.message));
  }
}
