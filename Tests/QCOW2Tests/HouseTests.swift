import Testing
@Test func swiftTestingRuns() { #expect(Bool(true)) }
