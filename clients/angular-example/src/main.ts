import { bootstrapApplication } from "@angular/platform-browser";
import { provideGridcast } from "./gridcast";
import { MediaComponent } from "./media.component";

// The address may be another origin, which then allows this page (docs/clients.md, "Other origins"):
// provideGridcast({ url: "https://media.example", token: () => session.accessToken })
bootstrapApplication(MediaComponent, { providers: [provideGridcast()] }).catch(console.error);
