"""Composes the parts that serve live streams."""

from services.common.bus.publisher import EventPublisher
from services.common.bus.redis import RedisClient
from services.common.bus.subscription import Subscription
from services.common.live.wakeups import CHANNEL
from services.common.store.factory import MediaStore
from services.common.telemetry import metrics
from services.stream.block_cache import BlockCache
from services.stream.live.committed_files import CommittedFiles
from services.stream.live.handler import LiveHandler
from services.stream.live.loaders import StreamLoaders
from services.stream.live.pieces import PieceReader
from services.stream.live.segment_cache import SegmentCache
from services.stream.live.steady_marks import RedisSteadyMarks
from services.stream.live.viewers import ViewerCounter
from services.stream.response_sender import SendTimeoutMonitor
from services.stream.settings import StreamSettings


class LiveService:
    """All that lives as long as the application. `is_open`: all may read everything, so responses may be shared."""

    def __init__(
        self,
        settings: StreamSettings,
        store: MediaStore,
        redis: RedisClient,
        blocks: BlockCache,
        send_timeout: SendTimeoutMonitor,
        *,
        is_open: bool,
    ) -> None:
        self._marks = RedisSteadyMarks(redis)
        self.loaders = StreamLoaders(
            store.live,
            lambda: self._wake_ups.subscribed,
            self._marks,
            max_streams=settings.live_streams,
            max_segments=settings.live_segments,
            max_waiting=settings.live_waiting,
            max_waiting_per_stream=settings.live_waiting_per_stream,
        )
        self._wake_ups = Subscription(
            redis,
            [CHANNEL],
            lambda _channel, payload: self.loaders.on_wake_up(payload),
            name="live",
            on_disconnected=self.loaders.on_disconnected,
        )
        self._viewers = ViewerCounter(redis, EventPublisher(redis, "/stream").publish)
        segments = SegmentCache(store.growing, settings.live_segment_cache_size)
        cache_scope = "public" if is_open else "private"
        pieces = PieceReader(segments, blocks, CommittedFiles(store.live), cache_scope)
        self.handler = LiveHandler(self.loaders, pieces, store.messages, self._viewers, send_timeout, cache_scope)
        metrics.LIVE_STREAMS.set_function(lambda: self.loaders.stream_count)
        metrics.LIVE_WAITING.set_function(lambda: self.loaders.waiting)
        metrics.LIVE_SEGMENT_CACHE_BYTES.set_function(lambda: segments.size_bytes)

    def start(self) -> None:
        """Begin to hear wake-ups, to count viewers, and to drop streams without viewers."""
        self._wake_ups.start()  # without Redis the store is asked more often
        self.loaders.start()
        self._viewers.start()

    async def aclose(self) -> None:
        """End all waits and tasks."""
        await self._wake_ups.aclose()
        await self.loaders.aclose()
        await self._viewers.aclose()
        await self._marks.aclose()
