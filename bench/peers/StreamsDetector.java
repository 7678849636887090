import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;

/** Kafka Streams with exactly_once_v2, a stateless topology: each record goes on to the topic that its amount says. */
public class StreamsDetector {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> ENVIRON = System.getenv();

    public static void main(String[] arguments) {
        String legit = ENVIRON.get("LEGIT_TOPIC");
        String fraud = ENVIRON.get("FRAUD_TOPIC");
        String deadLetter = ENVIRON.get("DEAD_LETTER_TOPIC");
        StreamsBuilder builder = new StreamsBuilder();
        builder.<byte[], byte[]>stream(ENVIRON.get("TRANSACTIONS_TOPIC"))
            .to((key, value, context) -> {
                JsonNode amount = amount(value);
                if (amount == null || !amount.isNumber()) {
                    return deadLetter;
                }
                return amount.doubleValue() >= 900 ? fraud : legit;
            });
        KafkaStreams streams = new KafkaStreams(builder.build(), configuration());
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler
                .StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.ERROR) {
                Runtime.getRuntime().halt(1);
            }
        });
        streams.start();
    }

    private static JsonNode amount(byte[] value) {
        try {
            return value == null ? null : JSON.readTree(value).get("amount");
        } catch (IOException notJson) {
            return null;
        }
    }

    private static Properties configuration() {
        boolean lowLatency = "latency".equals(ENVIRON.get("TUNING"));
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, ENVIRON.get("CONSUMER_GROUP"));
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, ENVIRON.get("KAFKA_BROKER_URL"));
        properties.put(StreamsConfig.STATE_DIR_CONFIG, ENVIRON.get("STATE_FOLDER"));
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        properties.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        // A commit ends a transaction, and nobody sees a record before. 100 ms is the default.
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, lowLatency ? 10 : 100);
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        properties.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        properties.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
        // 100 ms is the default in Kafka Streams.
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), lowLatency ? 0 : 100);
        return properties;
    }
}
