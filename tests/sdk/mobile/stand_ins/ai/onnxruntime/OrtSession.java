package ai.onnxruntime;
import java.util.*;
public class OrtSession implements AutoCloseable {
  public static class SessionOptions implements AutoCloseable { public void setIntraOpNumThreads(int n) throws OrtException {} public void addConfigEntry(String k,String v) throws OrtException {} public void close(){} }
  public static class RunOptions implements AutoCloseable { public void close(){} }
  public static class Result implements AutoCloseable, Iterable<Map.Entry<String,OnnxValue>> { public Iterator<Map.Entry<String,OnnxValue>> iterator(){return null;} public Optional<OnnxValue> get(String k){return null;} public void close(){} }
  public Map<String,NodeInfo> getInputInfo() throws OrtException {return null;}
  public Set<String> getInputNames(){return null;} public Set<String> getOutputNames(){return null;}
  public Result run(Map<String,? extends OnnxTensorLike> in, Set<String> requested, Map<String,? extends OnnxValue> pinned, RunOptions o) throws OrtException {return null;}
  public void close() throws OrtException {}
}
