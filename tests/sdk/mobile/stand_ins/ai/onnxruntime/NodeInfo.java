package ai.onnxruntime; public class NodeInfo { public ValueInfo getInfo(){return null;} public String getName(){return null;} }
