// What a test's own machinery could not do, as an error that says so: no room, no server, no answer.

/// A test cannot go on.
public struct TestFailure: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
