import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;

/** Kafka Streams with exactly_once_v2, a stateless topology: each record goes on to the topic that its amount says. */
public class StreamsDetector {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> ENVIRON = System.getenv();
    private static final String LEGIT = ENVIRON.get("LEGIT_TOPIC");
    private static final String FRAUD = ENVIRON.get("FRAUD_TOPIC");
    private static final String DEAD_LETTER = ENVIRON.get("DEAD_LETTER_TOPIC");

    public static void main(String[] arguments) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<byte[], byte[]>stream(ENVIRON.get("TRANSACTIONS_TOPIC"))
            .to((key, value, context) -> route(value));
        KafkaStreams streams = new KafkaStreams(builder.build(), configuration());
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        streams.start();
    }

    private static String route(byte[] value) {
        try {
            JsonNode amount = value == null ? null : JSON.readTree(value).get("amount");
            return amount == null || !amount.isNumber() ? DEAD_LETTER : amount.doubleValue() >= 900 ? FRAUD : LEGIT;
        } catch (IOException notJson) {
            return DEAD_LETTER;
        }
    }

    private static Properties configuration() {
        boolean lowLatency = "latency".equals(ENVIRON.get("TUNING"));
        Properties properties = new Properties();
        properties.putAll(Map.of(
            "application.id", ENVIRON.get("CONSUMER_GROUP"),
            "bootstrap.servers", ENVIRON.get("KAFKA_BROKER_URL"),
            "state.dir", ENVIRON.get("STATE_FOLDER"),
            "processing.guarantee", "exactly_once_v2",
            "default.key.serde", Serdes.ByteArraySerde.class,
            "default.value.serde", Serdes.ByteArraySerde.class));
        properties.putAll(Map.of(
            // A commit ends a transaction, and nobody sees a record before. 100 ms is the default, of both times.
            "commit.interval.ms", lowLatency ? 10 : 100,
            "producer.linger.ms", lowLatency ? 0 : 100,
            "producer.batch.size", 512 * 1024,
            "consumer.auto.offset.reset", "earliest",
            "consumer.max.poll.records", 10_000,
            "buffered.records.per.partition", 10_000));
        return properties;
    }
}
