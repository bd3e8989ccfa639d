"""AWS's SDK for Python gets a list, tells what was done, and asks again. Nothing in it but the endpoint says that Aisle answers.

    export AWS_ENDPOINT_URL_PERSONALIZE_RUNTIME=http://127.0.0.1:8080/compat/aws
    export AWS_ENDPOINT_URL_PERSONALIZE_EVENTS=http://127.0.0.1:8080/compat/aws
    export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…   # printed by: aisle keys create --tenant demo --scopes recommend,events,aws
    python examples/aws_personalize.py [USER]

Needs `pip install boto3`.
"""

from __future__ import annotations

import sys
import time
import uuid

import boto3


def main(user: str) -> None:
    """Prints two lists: before and after the user clicks the first item."""
    runtime = boto3.client("personalize-runtime", region_name="eu-west-1")
    events = boto3.client("personalize-events", region_name="eu-west-1")
    before = runtime.get_recommendations(campaignArn="aisle", userId=user, numResults=5, metadataColumns={"ITEMS": ["TITLE"]})
    print(f"{user}, recommendation {before['recommendationId']}:")
    for place, entry in enumerate(before["itemList"], 1):
        print(f"{place:3}. {entry['itemId']}: {entry['metadata'].get('TITLE', '')}")
    if not before["itemList"]:
        print("The catalogue is empty; `aisle demo generate` makes one to import.")
        return
    clicked = before["itemList"][0]["itemId"]
    events.put_events(
        trackingId="aisle",
        userId=user,
        sessionId=uuid.uuid4().hex,
        eventList=[
            {
                "eventId": uuid.uuid4().hex,
                "eventType": "click",
                "itemId": clicked,
                "sentAt": int(time.time()),
                "recommendationId": before["recommendationId"],
            }
        ],
    )
    ranked = runtime.get_personalized_ranking(
        campaignArn="aisle", userId=user, inputList=[entry["itemId"] for entry in reversed(before["itemList"])]
    )
    print(f"\nAfter a click on {clicked}, the same items ranked:")
    for place, entry in enumerate(ranked["personalizedRanking"], 1):
        print(f"{place:3}. {entry['itemId']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "couple-000001")
