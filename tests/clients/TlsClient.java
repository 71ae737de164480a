// The JDK's HTTP client uploads by PUT, by form and by tus, downloads a range and opens a WebSocket.
// Arguments: the base URL, and a tag that makes the names of its files unique. Prints what failed, and exits with 0 if nothing did.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.util.Base64;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

class TlsClient {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static String base;
    static int failures = 0;

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(base + path));
    }

    static HttpResponse<String> send(String name, int expected, HttpRequest.Builder request) throws Exception {
        var response = CLIENT.send(request.build(), BodyHandlers.ofString());
        if (response.statusCode() != expected || response.version() != HttpClient.Version.HTTP_2) {
            failures++;
            System.out.println(name + ": " + response.statusCode() + " " + response.version() + " " + response.body());
        }
        return response;
    }

    static String base64(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes());
    }

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        var tag = arguments[1];
        var file = "/file/stream?folder=java&filename=put-" + tag;
        send("PUT", 201, request(file).PUT(BodyPublishers.ofString("hello")));
        var range = send("range", 206, request(file).header("Range", "bytes=1-3").GET());
        if (!range.body().equals("ell")) failures++;
        var head = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"form-" + tag + "\"\r\n\r\n";
        send("form", 201, request("/file/upload?folder=java").header("Content-Type", "multipart/form-data; boundary=B")
            .POST(BodyPublishers.ofString(head + "hello\r\n--B--\r\n")));
        var created = send("tus creation", 201, request("/file/tus").header("Tus-Resumable", "1.0.0").header("Upload-Length", "5")
            .header("Upload-Metadata", "filename " + base64("tus-" + tag) + ",folder " + base64("java")).POST(BodyPublishers.noBody()));
        send("tus PATCH", 204, request(created.headers().firstValue("location").orElseThrow()).header("Tus-Resumable", "1.0.0")
            .header("Upload-Offset", "0").header("Content-Type", "application/offset+octet-stream")
            .method("PATCH", BodyPublishers.ofString("hello")));
        send("push", 200, request("/sockets/messages").header("Content-Type", "application/json")
            .POST(BodyPublishers.ofString("{\"type\":\"java\"}")));
        var first = new CompletableFuture<String>();
        var socket = CLIENT.newWebSocketBuilder().buildAsync(URI.create(base.replace("https", "wss") + "/ws"), new WebSocket.Listener() {
            public CompletionStage<?> onText(WebSocket webSocket, CharSequence data, boolean last) {
                first.complete(data.toString());
                return null;
            }
        }).get(20, TimeUnit.SECONDS);
        if (!first.get(20, TimeUnit.SECONDS).contains("sid")) failures++;
        socket.abort();
        System.exit(failures == 0 ? 0 : 1);
    }
}
